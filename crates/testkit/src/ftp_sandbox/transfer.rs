//! STOR, RETR and listings: what moves over a data connection, what the disk gets of it, and what is said in between.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::Shared;
use super::behaviour::{Behaviour, Cut, FinalReply, Full, Noop, RestartRule};
use super::commands::refused;
use super::control::{Wire, over, tcp};
use super::data::{end_of, finish, run_steps};
use super::listing::{lines, shown_name};
use super::recorder::{DataEnd, DataSeen, Event};
use super::script::DataStep;
use super::session::{Answer, Session, reply, split};
use crate::sftp::{Corruption, CorruptionKind, NameEventKind};

/// Commands kept for after a transfer; the rest waits in the socket.
const MAX_PENDING: usize = 1000;

/// How far a transfer is, seen from the control connection.
#[derive(Default)]
struct Progress {
    bytes: AtomicU64,
    /// The control connection is to be closed now.
    cut: Notify,
}

struct Moved {
    end: DataEnd,
    answer: Vec<u8>,
}

fn done() -> Vec<u8> {
    reply(226, "Transfer complete")
}

struct Upload {
    shared: Arc<Shared>,
    behaviour: Arc<Behaviour>,
    file: File,
    offset: u64,
    lie: Option<Corruption>,
    ascii: bool,
    progress: Arc<Progress>,
}

impl Upload {
    async fn receive(self, mut stream: Wire) -> Moved {
        let mut buffer = vec![0; 64 * 1024];
        let mut at = self.offset;
        let mut carriage_return = false;
        let end = loop {
            let read = match stream.read(&mut buffer).await {
                Ok(0) if matches!(stream, Wire::Right(_)) => break DataEnd::CloseNotify,
                Ok(0) => break DataEnd::Fin,
                Ok(read) => read,
                Err(error) => break end_of(&error),
            };
            if let Some(rate) = self.behaviour.rate {
                tokio::time::sleep_until(self.shared.pacer.book(read as u64, rate)).await;
            }
            self.shared.recorder.received(read as u64);
            let total = self.progress.bytes.fetch_add(read as u64, Ordering::SeqCst) + read as u64;
            let stored = if self.ascii { unix_lines(&buffer[..read], &mut carriage_return) } else { buffer[..read].to_vec() };
            if let Err(error) = self.store(at, &stored) {
                return self.failed(stream, &error).await;
            }
            at += stored.len() as u64;
            if let Some(Cut::MidData(after)) = self.behaviour.cut
                && total >= after
                && self.shared.cuts(&self.behaviour, Cut::MidData(after))
            {
                self.progress.cut.notify_one();
                if !self.behaviour.orphan {
                    std::future::pending::<()>().await;
                }
            }
        };
        if let Some(CorruptionKind::StaleTail { length }) = self.lie.map(|lie| lie.kind) {
            let _ = self.file.write_all_at(&vec![0xee; length as usize], at);
        }
        let broken =
            end == DataEnd::Reset || end == DataEnd::Fin && matches!(stream, Wire::Right(_)) && self.behaviour.close_notify_required;
        finish(stream).await;
        Moved { end, answer: if broken { reply(426, "Failure reading network stream.") } else { done() } }
    }

    fn store(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let pieces = match self.lie {
            Some(lie) => lie.place(offset, data),
            None => vec![(offset, data.to_vec())],
        };
        let storage = &self.shared.storage;
        for (offset, data) in pieces {
            let Err(error) = storage.write(&self.file, offset, &data, self.behaviour.capacity) else { continue };
            if let Some(capacity) = self.behaviour.capacity {
                // A disk takes what fits.
                let inside = self.file.metadata()?.len().saturating_sub(offset);
                let fits = (storage.free(capacity)? + inside).min(data.len() as u64);
                storage.write(&self.file, offset, &data[..fits as usize], Some(capacity))?;
            }
            return Err(error);
        }
        Ok(())
    }

    async fn failed(&self, stream: Wire, error: &io::Error) -> Moved {
        let full = rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::NOSPC);
        let answer = match &self.behaviour.full {
            _ if !full => reply(451, error.to_string()),
            Full::Reply(code, text) => reply(*code, text),
            Full::CloseData => Vec::new(),
            Full::Silence => std::future::pending().await,
        };
        drop(stream);
        Moved { end: DataEnd::Server, answer }
    }
}

/// CR LF as LF; a CR at the end of a piece waits for the next one.
fn unix_lines(data: &[u8], carriage_return: &mut bool) -> Vec<u8> {
    let mut lines = Vec::with_capacity(data.len() + 1);
    for byte in data {
        if std::mem::take(carriage_return) && *byte != b'\n' {
            lines.push(b'\r');
        }
        if *byte == b'\r' { *carriage_return = true } else { lines.push(*byte) }
    }
    lines
}

/// What goes out: a file from an offset, or a listing.
enum Content {
    File(File, u64),
    Bytes(Vec<u8>),
}

async fn give(content: Content, mut stream: Wire, shared: Arc<Shared>, rate: Option<u64>, progress: Arc<Progress>) -> Moved {
    let mut at = if let Content::File(_, offset) = &content { *offset } else { 0 };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = match &content {
            Content::File(file, _) => match file.read_at(&mut buffer, at) {
                Ok(read) => read,
                Err(error) => return Moved { end: DataEnd::Server, answer: reply(451, error.to_string()) },
            },
            Content::Bytes(bytes) => {
                let rest = bytes.get(at as usize..).unwrap_or_default();
                let piece = rest.len().min(buffer.len());
                buffer[..piece].copy_from_slice(&rest[..piece]);
                piece
            }
        };
        if read == 0 {
            break;
        }
        if let Some(rate) = rate {
            tokio::time::sleep_until(shared.pacer.book(read as u64, rate)).await;
        }
        if let Err(error) = stream.write_all(&buffer[..read]).await {
            return Moved { end: end_of(&error), answer: reply(426, "Failure writing network stream.") };
        }
        at += read as u64;
        shared.recorder.sent(read as u64);
        progress.bytes.fetch_add(read as u64, Ordering::SeqCst);
    }
    finish(stream).await;
    Moved { end: DataEnd::Server, answer: done() }
}

impl Session {
    pub async fn store(&mut self, path: Vec<u8>, offset: u64, steps: Option<Vec<DataStep>>) -> Answer {
        let behaviour = self.behaviour.clone();
        let shared = self.shared.clone();
        let real = match self.real(&path, true) {
            Ok(real) => real,
            Err(refusal) => return Ok(refusal),
        };
        let size = match real.metadata() {
            Ok(metadata) if metadata.is_dir() => return Ok(reply(553, "Is a directory")),
            Ok(metadata) => Some(metadata.len()),
            Err(_) => None,
        };
        if offset > 0 && behaviour.restart.rule == RestartRule::DownloadsOnly {
            return Ok(reply(550, "REST is not allowed before STOR"));
        }
        if offset > size.unwrap_or(0) && !behaviour.restart.beyond_end {
            return Ok(reply(554, "Invalid REST parameter"));
        }
        if size.is_some() && offset == 0 && behaviour.no_overwrite {
            return Ok(reply(550, "Overwrite permission denied"));
        }
        let _alone = if behaviour.locks { Some(shared.file_lock(&real).lock_owned().await) } else { None };
        let opened = OpenOptions::new().write(true).create(true).truncate(offset == 0).open(&real);
        let opened = opened.and_then(|file| {
            if offset > 0 && !behaviour.restart.keeps_tail && size.is_some_and(|size| size > offset) {
                file.set_len(offset)?;
            }
            Ok(file)
        });
        let file = match opened {
            Ok(file) => file,
            Err(error) => return Ok(refused(&error)),
        };
        if size.is_some() {
            shared.storage.shrank();
        }
        let name = shown_name(&path);
        match size {
            None => shared.named(NameEventKind::Created, &name, &real),
            Some(_) if offset == 0 => shared.named(NameEventKind::Emptied, &name, &real),
            Some(_) => {}
        }
        if shared.cuts(&behaviour, Cut::BeforePreliminary) {
            return Err(over());
        }
        let lie = shared.lie(&name, offset == 0, &behaviour);
        let progress = Arc::new(Progress::default());
        let upload = Upload { shared, behaviour, file, offset, lie, ascii: !self.binary, progress: progress.clone() };
        self.transfer("STOR", &path, progress, steps, |stream| upload.receive(stream)).await
    }

    pub async fn retrieve(&mut self, path: Vec<u8>, offset: u64, steps: Option<Vec<DataStep>>) -> Answer {
        if self.behaviour.write_only {
            return Ok(reply(550, "Permission denied"));
        }
        let file = match self.real(&path, true) {
            Ok(real) if real.is_dir() => return Ok(reply(550, "Not a plain file")),
            Ok(real) => File::open(real),
            Err(refusal) => return Ok(refusal),
        };
        match file.and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((size, _)) if offset > size => Ok(reply(554, "Invalid REST parameter")),
            Ok((_, file)) => self.give_out("RETR", &path, Content::File(file, offset), steps).await,
            Err(error) => Ok(refused(&error)),
        }
    }

    pub async fn list(&mut self, verb: &str, argument: &[u8], steps: Option<Vec<DataStep>>) -> Answer {
        if self.behaviour.write_only {
            return Ok(reply(550, "Permission denied"));
        }
        // `LIST -la directory`: the options change nothing here.
        let mut argument = argument;
        while argument.starts_with(b"-") && verb != "MLSD" {
            argument = split(argument).1;
        }
        let path = self.path(argument);
        let real = match self.real(&path, true) {
            Ok(real) => real,
            Err(refusal) => return Ok(refusal),
        };
        match lines(verb, &real, &self.behaviour.extra_names) {
            Ok(lines) => self.give_out(verb, &path, Content::Bytes(lines), steps).await,
            Err(error) => Ok(refused(&error)),
        }
    }

    async fn give_out(&mut self, verb: &str, path: &[u8], content: Content, steps: Option<Vec<DataStep>>) -> Answer {
        let progress = Arc::new(Progress::default());
        let (shared, rate, counted) = (self.shared.clone(), self.behaviour.rate, progress.clone());
        self.transfer(verb, path, progress, steps, |stream| give(content, stream, shared, rate, counted)).await
    }

    /// Opens the data connection, says 150, lets `work` move the data while the client may go on talking, and returns
    /// the last answer.
    async fn transfer<F, W>(&mut self, verb: &str, path: &[u8], progress: Arc<Progress>, steps: Option<Vec<DataStep>>, work: F) -> Answer
    where
        F: FnOnce(Wire) -> W,
        W: Future<Output = Moved>,
    {
        let stream = match self.open_data().await {
            Ok(stream) => stream,
            Err(refusal) => return Ok(refusal),
        };
        self.say(&reply(150, "Opening data connection")).await?;
        self.shared.recorder.data_connections.up();
        let mut seen = DataSeen {
            connection: self.number,
            verb: verb.to_owned(),
            path: shown_name(path).to_string(),
            bytes: 0,
            tls: None,
            end: DataEnd::Server,
        };
        let answer = match self.protect(stream).await {
            Ok((stream, tls)) => {
                seen.tls = tls;
                let _ = tcp(&stream).set_nodelay(true);
                match steps {
                    Some(steps) => {
                        let counted = progress.clone();
                        let work = async move {
                            let (bytes, end) = run_steps(stream, steps).await;
                            counted.bytes.store(bytes, Ordering::SeqCst);
                            Moved { end, answer: done() }
                        };
                        self.drive(work, &progress, &mut seen).await
                    }
                    None => self.drive(work(stream), &progress, &mut seen).await,
                }
            }
            Err((refusal, tls)) => {
                seen.end = if tls.is_some() { DataEnd::Server } else { DataEnd::HandshakeFailed };
                seen.tls = tls;
                Ok(refusal)
            }
        };
        seen.bytes = progress.bytes.load(Ordering::SeqCst);
        self.shared.recorder.data_connections.down();
        self.shared.recorder.saw(Event::Data(seen));
        answer
    }

    async fn drive(&mut self, work: impl Future<Output = Moved>, progress: &Progress, seen: &mut DataSeen) -> Answer {
        let uploads = seen.verb == "STOR";
        let final_reply = if uploads { self.behaviour.final_reply } else { FinalReply::Prompt };
        if final_reply == FinalReply::BeforeData {
            self.say(&done()).await?;
        }
        let mut work = pin!(work);
        let mut listening = true;
        let moved = loop {
            let alive = tokio::select! {
                moved = &mut work => break moved,
                () = progress.cut.notified() => {
                    self.control.drop_stream();
                    false
                }
                line = self.control.line(), if listening && self.pending.len() < MAX_PENDING => match line {
                    Ok(Some(line)) if split(&line).0 == "ABOR" => {
                        self.record_command(&line);
                        return Ok([reply(426, "Transfer aborted"), reply(226, "ABOR successful")].concat());
                    }
                    Ok(Some(line)) => {
                        self.meanwhile(line).await?;
                        true
                    }
                    _ => false,
                },
            };
            if !alive {
                listening = false;
                seen.end = DataEnd::Abandoned;
                if !self.behaviour.orphan {
                    return Err(over());
                }
                self.control.drop_stream();
            }
        };
        if listening {
            seen.end = moved.end;
        }
        if uploads && moved.answer.starts_with(b"226") {
            if self.shared.cuts(&self.behaviour, Cut::BeforeFinal) {
                return Err(over());
            }
            match final_reply {
                FinalReply::Prompt => {}
                FinalReply::After(time) => tokio::time::sleep(time).await,
                FinalReply::Never | FinalReply::BeforeData => return Ok(Vec::new()),
            }
        }
        Ok(moved.answer)
    }

    /// A command that came while data moves.
    async fn meanwhile(&mut self, line: Vec<u8>) -> io::Result<()> {
        let answer = match self.behaviour.noop {
            _ if split(&line).0 != "NOOP" => None,
            Noop::Immediate => Some(reply(200, "NOOP ok")),
            Noop::Unknown => Some(reply(500, "Unknown command")),
            Noop::Deferred => None,
        };
        match answer {
            Some(answer) => {
                self.record_command(&line);
                self.say(&answer).await
            }
            None => {
                self.pending.push_back(line);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_are_changed_across_pieces() {
        let mut pending = false;
        let pieces = [&b"a\r"[..], b"\nb\rc\r", b"\r\n"];
        let stored: Vec<u8> = pieces.iter().flat_map(|piece| unix_lines(piece, &mut pending)).collect();
        assert_eq!(stored, b"a\nb\rc\r\n");
    }
}
