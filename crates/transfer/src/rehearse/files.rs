//! Steps on the content of a file: sending, reading back, digests, offsets, going on, and the deliberate cut.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use model::{Ability, Algorithm, DigestSet, RemotePath, Throughput, Tried};

use super::scratch::content;
use super::{Ground, heard};
use crate::digest::StreamDigests;
use crate::error::chain;
use crate::{CreateOptions, ErrorKind, OpenMode, Result, Writer};

/// Sizes of the scratch file.
pub(super) const PROBED: u64 = 64 << 10;
pub(super) const REHEARSED: u64 = 8 << 20;
/// On a slow line the file becomes shorter.
pub(super) const MOVED_FOR: Duration = Duration::from_secs(10);
const PIECE: u64 = 512 << 10;
const PIECES_AT_ONCE: usize = 4;
const BLOCK: usize = 256 << 10;
/// After a cut the server may still be storing what was on its way.
const LOOKS: usize = 10;
const LOOK_EVERY: Duration = Duration::from_millis(200);

impl Ground {
    pub(super) async fn upload(&mut self) -> Result<()> {
        let path = self.scratch.fresh()?;
        let writer = match heard_unless_missing(self.create(&path, OpenMode::CreateNew).await)? {
            Ok(writer) => writer,
            Err(why) => {
                self.note(Ability::Write, false, &why);
                return Ok(());
            }
        };
        let capabilities = self.connected().await?.capabilities().clone();
        let begun = Instant::now();
        let sent = async {
            let sent = send(&*writer, 0..self.wanted, capabilities.offset_writes).await?;
            writer.finish().await?;
            Ok(sent)
        };
        let sent = match heard(sent.await)? {
            Ok(sent) => sent,
            Err(why) => {
                self.note(Ability::Write, false, &why);
                return Ok(());
            }
        };
        let seconds = begun.elapsed().as_secs_f64();
        if capabilities.sync {
            match heard(writer.sync().await)? {
                Ok(()) => self.note(Ability::Sync, true, "it was asked for and granted"),
                Err(why) => self.note(Ability::Sync, false, &why),
            }
        }
        if let Err(why) = heard(writer.close().await)? {
            self.note(Ability::Write, false, &why);
            return Ok(());
        }
        self.note(Ability::Write, true, &format!("{sent} bytes were sent"));
        self.profile.rate = Some(Throughput { bytes: sent, seconds });
        match heard(self.connected().await?.stat(&path).await)? {
            Ok(Some(found)) if found.size == sent => self.note(Ability::Stat, true, "the size of the scratch file agrees"),
            Ok(Some(found)) => {
                self.note(Ability::Stat, true, "a size was told");
                self.note(Ability::Faithful, false, &format!("{sent} bytes were sent and {} are there", found.size));
            }
            Ok(None) => self.note(Ability::Stat, false, "a file that was sent does not show"),
            Err(why) => self.note(Ability::Stat, false, &why),
        }
        self.main = Some((path, sent));
        Ok(())
    }

    pub(super) async fn read_back(&mut self) -> Result<()> {
        let (path, size) = self.main()?;
        if self.profile.knows(Ability::Read) == Tried::No {
            return Ok(());
        }
        match self.compare(&path, size).await? {
            Ok(Compared::Same(bytes)) => {
                self.note(Ability::Read, true, &format!("{bytes} bytes were read back"));
                if self.profile.knows(Ability::Faithful) != Tried::No {
                    self.note(Ability::Faithful, true, &format!("{bytes} bytes came back as they were sent"));
                }
            }
            Ok(Compared::Differs(why)) => {
                self.note(Ability::Read, true, "a file was read back");
                self.note(Ability::Faithful, false, &why);
            }
            Err(why) => self.note(Ability::Read, false, &why),
        }
        Ok(())
    }

    pub(super) async fn digests(&mut self) -> Result<()> {
        let connection = self.connected().await?;
        let (path, size) = self.main()?;
        for (algorithm, ability) in [(Algorithm::Sha256, Ability::HashSha256), (Algorithm::Md5, Ability::HashMd5)] {
            if !connection.capabilities().hashes.contains(&algorithm) {
                continue;
            }
            let mut digests = StreamDigests::new(DigestSet { sha256: algorithm == Algorithm::Sha256, md5: algorithm == Algorithm::Md5 });
            for at in (0..size).step_by(PIECE as usize) {
                digests.update(&content(at, PIECE.min(size - at) as usize));
            }
            let (sha256, md5) = digests.finish();
            match heard(connection.hash(&path, algorithm).await)? {
                Ok(Some(there)) if Some(there.hex()) == sha256.or(md5) => self.note(ability, true, "its digest is that of what was sent"),
                Ok(Some(_)) => self.note(ability, false, "its digest is not that of what was sent"),
                Ok(None) => self.note(ability, false, "it offers this digest and tells none"),
                Err(why) => self.note(ability, false, &why),
            }
        }
        Ok(())
    }

    pub(super) async fn overwrite(&mut self) -> Result<()> {
        let path = self.small_file(b"written first, and longer").await?;
        let again = async {
            let writer = self.create(&path, OpenMode::Truncate).await?;
            writer.write_at(0, Bytes::from_static(b"written anew")).await?;
            writer.close().await
        };
        if let Err(why) = heard(again.await)? {
            self.note(Ability::Overwrite, false, &why);
            return Ok(());
        }
        match heard(self.connected().await?.stat(&path).await)? {
            Ok(Some(found)) if found.size != 12 => {
                let why = format!("after 12 bytes were written over 25, {} are there", found.size);
                self.note(Ability::Overwrite, false, &why);
            }
            _ => self.note(Ability::Overwrite, true, "a file was written anew"),
        }
        Ok(())
    }

    pub(super) async fn offsets(&mut self) -> Result<()> {
        const AT: u64 = 64 << 10;
        if !self.connected().await?.capabilities().offset_writes {
            return Ok(());
        }
        let path = self.scratch.fresh()?;
        let writer = self.create(&path, OpenMode::CreateNew).await?;
        let size = AT + AT / 2;
        // The later part first: whoever appends puts it at the beginning.
        let written = async {
            writer.write_at(AT, content(AT, (size - AT) as usize)).await?;
            writer.write_at(0, content(0, AT as usize)).await?;
            writer.close().await
        };
        if let Err(why) = heard(written.await)? {
            self.note(Ability::OffsetWrites, false, &why);
            return Ok(());
        }
        match self.compare(&path, size).await? {
            Ok(Compared::Same(_)) => self.note(Ability::OffsetWrites, true, "parts that were written in any order are where they belong"),
            Ok(Compared::Differs(why)) => self.note(Ability::OffsetWrites, false, &why),
            Err(_) => match heard(self.connected().await?.stat(&path).await)? {
                Ok(Some(found)) if found.size != size => {
                    self.note(Ability::OffsetWrites, false, &format!("the file has {} bytes and not {size}", found.size));
                }
                _ => self.note(Ability::OffsetWrites, Tried::Unknown, "written, and nobody may read whether it is right"),
            },
        }
        Ok(())
    }

    pub(super) async fn go_on(&mut self) -> Result<()> {
        const FIRST: u64 = 10_007;
        let capabilities = self.connected().await?.capabilities().clone();
        if capabilities.offset_writes || !capabilities.continues {
            return Ok(());
        }
        let path = self.scratch.fresh()?;
        let writer = self.create(&path, OpenMode::CreateNew).await?;
        writer.write_at(0, content(0, FIRST as usize)).await?;
        writer.close().await?;
        self.continue_from(&path, FIRST, 2 * FIRST, Ability::Continues).await
    }

    /// Goes on with a stream at `from` and notes whether that made the whole file.
    async fn continue_from(&mut self, path: &RemotePath, from: u64, size: u64, ability: Ability) -> Result<()> {
        let connection = self.connected().await?;
        let read = connection.capabilities().read;
        let mode = if connection.capabilities().offset_writes { OpenMode::Existing } else { OpenMode::Continue(from) };
        let wide = connection.capabilities().offset_writes;
        let options = CreateOptions { mode, read: read && self.profile.knows(Ability::Read) != Tried::No, permissions: None };
        let continued = async {
            let writer = connection.open(path, options).await?;
            let sent = send(&*writer, from..size, wide).await?;
            writer.close().await?;
            Ok(from + sent)
        };
        let whole = match heard(continued.await)? {
            Ok(whole) => whole,
            Err(why) => {
                self.note(ability, false, &why);
                return Ok(());
            }
        };
        match self.compare(path, whole).await? {
            Ok(Compared::Same(_)) => self.note(ability, true, &format!("went on at byte {from} of {whole}, and the whole was read back")),
            Ok(Compared::Differs(why)) => self.note(ability, false, &why),
            Err(_) => match heard(self.connected().await?.stat(path).await)? {
                Ok(Some(found)) if found.size != whole => {
                    self.note(ability, false, &format!("going on at byte {from} made {} bytes and not {whole}", found.size));
                }
                _ => self.note(ability, Tried::Unknown, "taken, and nobody may read whether it is right"),
            },
        }
        Ok(())
    }

    /// Drops the connection in the middle of a file, comes back, and goes on with what is there.
    pub(super) async fn cut(&mut self) -> Result<()> {
        let capabilities = self.connected().await?.capabilities().clone();
        if self.profile.knows(Ability::Faithful) == Tried::No {
            self.note(Ability::Resumes, false, "it does not store what it is sent");
            return Ok(());
        }
        let (able, needed) =
            if capabilities.offset_writes { (Ability::OffsetWrites, "offsets") } else { (Ability::Continues, "continuing") };
        if let Some(fact) = self.profile.fact(able).filter(|fact| fact.known == Tried::No) {
            let why = format!("{needed}: {}", fact.evidence);
            self.note(Ability::Resumes, false, &why);
            return Ok(());
        }
        let (_, size) = self.main()?;
        let half = (size / 2).max(1);
        let path = self.scratch.fresh()?;
        let writer = self.create(&path, OpenMode::CreateNew).await?;
        send(&*writer, 0..half, capabilities.offset_writes).await?;
        // Neither side says goodbye: this is what a broken line looks like.
        drop(writer);
        self.connection = None;
        let connection = self.connected().await?;
        let mut last = None;
        for _ in 0..LOOKS {
            let now = match heard(connection.stat(&path).await)? {
                Ok(found) => found.map(|found| found.size),
                Err(why) => {
                    self.note(Ability::Resumes, false, &format!("after the cut nobody may look at the file: {why}"));
                    return Ok(());
                }
            };
            if now.is_some() && now == last {
                break;
            }
            last = now;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let there = last.unwrap_or(0);
        if there == 0 {
            self.note(Ability::Resumes, false, "after the cut nothing of the file was left");
            return Ok(());
        }
        if there > half {
            self.note(Ability::Resumes, false, &format!("after the cut {there} bytes are there, of {half} that were sent"));
            return Ok(());
        }
        self.continue_from(&path, there, size, Ability::Resumes).await
    }

    /// Reads a scratch file from its beginning, as far as the time allows. `Ok(Err)` is a refusal.
    async fn compare(&mut self, path: &RemotePath, size: u64) -> Result<std::result::Result<Compared, String>> {
        let connection = self.connected().await?;
        if self.profile.knows(Ability::Read) == Tried::No || !connection.capabilities().read {
            return Ok(Err("our own files cannot be read".to_owned()));
        }
        let begun = Instant::now();
        let reading = async {
            let reader = connection.open_read(path).await?;
            let mut at = 0;
            while at < size && begun.elapsed() < MOVED_FOR {
                let wanted = BLOCK.min((size - at) as usize);
                let read = reader.read_at(at, wanted).await?;
                if read.len() < wanted {
                    return Ok(Compared::Differs(format!("{size} bytes were sent and {} came back", at + read.len() as u64)));
                }
                let sent = content(at, wanted);
                if let Some(place) = sent.iter().zip(&read).position(|(ours, theirs)| ours != theirs) {
                    return Ok(Compared::Differs(format!("what came back differs from what was sent from byte {} on", at + place as u64)));
                }
                at += wanted as u64;
            }
            if at == size && !reader.read_at(size, 1).await?.is_empty() {
                return Ok(Compared::Differs(format!("{size} bytes were sent and more came back")));
            }
            reader.close().await?;
            Ok(Compared::Same(at))
        };
        heard(reading.await)
    }
}

enum Compared {
    Same(u64),
    Differs(String),
}

/// Writes a part of the content, as far as the time allows; returns how many bytes that were.
async fn send(writer: &dyn Writer, range: std::ops::Range<u64>, wide: bool) -> Result<u64> {
    let begun = Instant::now();
    let at_once = if wide { PIECES_AT_ONCE } else { 1 };
    let starts = (range.start..range.end).step_by(PIECE as usize).take_while(|_| begun.elapsed() < MOVED_FOR);
    let pieces = starts.map(|at| {
        let length = PIECE.min(range.end - at);
        async move { writer.write_at(at, content(at, length as usize)).await.map(|()| length) }
    });
    let mut pieces = futures_util::stream::iter(pieces).buffered(at_once);
    let mut sent = 0;
    while let Some(length) = pieces.try_next().await? {
        sent += length;
    }
    Ok(sent)
}

/// As `heard`, but a directory that is not there is no answer about the server.
fn heard_unless_missing<T>(outcome: Result<T>) -> Result<std::result::Result<T, String>> {
    match outcome {
        Err(error) if error.kind == ErrorKind::DestDirMissing => Err(error),
        outcome => heard(outcome),
    }
}

impl Ground {
    pub(super) async fn attributes(&mut self) -> Result<()> {
        let connection = self.connected().await?;
        let (path, _) = self.main()?;
        if connection.capabilities().set_times {
            // Not so old that it could be taken for something forgotten.
            let wanted = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() - 3601).expect("an hour ago");
            match heard(connection.set_attributes(&path, Some(wanted), None).await)? {
                Err(why) => self.note(Ability::SetTimes, false, &why),
                Ok(()) => match heard(connection.stat(&path).await)? {
                    Ok(Some(found)) => match found.modified {
                        Some(time) if time.duration_since(wanted).abs().as_secs() <= 2 => {
                            self.note(Ability::SetTimes, true, "a time was set and kept");
                        }
                        Some(time) => self.note(Ability::SetTimes, false, &format!("{wanted:.0} was set and {time:.0} is there")),
                        None => self.note(Ability::SetTimes, Tried::Unknown, "set without a complaint; no time is told"),
                    },
                    Ok(None) | Err(_) => self.note(Ability::SetTimes, Tried::Unknown, "set without a complaint; nobody may look"),
                },
            }
        }
        if connection.capabilities().set_mode {
            match heard(connection.set_attributes(&path, None, Some(0o644)).await)? {
                Ok(()) => self.note(Ability::SetMode, true, "permissions were set without a complaint"),
                Err(why) => self.note(Ability::SetMode, false, &why),
            }
        }
        Ok(())
    }

    pub(super) async fn directory(&mut self) -> Result<()> {
        let connection = self.connected().await?;
        let path = self.scratch.fresh_directory()?;
        match heard(connection.make_directory(&path).await)? {
            Ok(()) => self.note(Ability::MakeDirectory, true, "a directory was created"),
            Err(why) => {
                self.note(Ability::MakeDirectory, false, &why);
                self.scratch.removed(&path);
                return Ok(());
            }
        }
        if let Err(error) = connection.remove_directory(&path).await {
            if error.is_connection_lost() {
                return Err(error);
            }
            self.note(Ability::Remove, false, &format!("a directory stays: {}", chain(&error)));
            return Ok(());
        }
        self.scratch.removed(&path);
        Ok(())
    }
}
