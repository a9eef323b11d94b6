//! What each command does, apart from moving data.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustix::fs::{CWD, RenameFlags};

use super::behaviour::{Cut, Rename, RestartRule};
use super::control::over;
use super::listing::{digest, facts, quoted, shown_name, stamp};
use super::script::DataStep;
use super::session::{Answer, Session, reply, split};
use crate::sftp::NameEventKind;

/// Either the answer for success or the one for failure.
type Tried = Result<Vec<u8>, Vec<u8>>;

pub(super) fn refused(error: &io::Error) -> Vec<u8> {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR) => reply(550, "No such file or directory"),
        Some(Errno::NOSPC | Errno::DQUOT) => reply(452, "No space left on device"),
        Some(Errno::NAMETOOLONG) => reply(553, "File name too long"),
        Some(Errno::EXIST) => reply(550, "File exists"),
        Some(Errno::NOTEMPTY) => reply(550, "Directory not empty"),
        Some(Errno::PERM | Errno::ACCESS) => reply(550, "Permission denied"),
        _ => reply(550, error.to_string()),
    }
}

impl Session {
    /// Does it. `steps` take the place of the transfer where there is one.
    pub async fn perform(&mut self, verb: &str, argument: &[u8], steps: Option<Vec<DataStep>>) -> Answer {
        // As real servers have it: the offset survives the command that prepares the data connection.
        let prepares = matches!(verb, "EPSV" | "PASV" | "EPRT" | "PORT" | "TYPE" | "NOOP");
        let restart = if prepares { 0 } else { std::mem::take(&mut self.restart) };
        let rename_from = self.rename_from.take();
        Ok(match verb {
            "CONNECT" => return self.greeting().await,
            "AUTH" => return self.auth(argument).await,
            "USER" if self.behaviour.tls_required && !self.control.is_secure() => reply(530, "TLS is required"),
            "USER" => {
                self.user = argument.to_vec();
                reply(331, "Password required")
            }
            "PASS" => self.pass(argument),
            "QUIT" => {
                self.quitting = true;
                reply(221, "Goodbye")
            }
            "FEAT" => self.features(),
            "PBSZ" if self.control.is_secure() => reply(200, "PBSZ=0"),
            "PBSZ" => reply(503, "PBSZ not allowed on insecure control connection"),
            "PROT" => self.prot(argument),
            "NOOP" => reply(200, "NOOP ok"),
            "SYST" => reply(215, "UNIX Type: L8"),
            _ if !self.logged_in => reply(530, "Please login with USER and PASS"),
            "OPTS" => self.options(argument),
            "TYPE" => self.transfer_type(argument),
            "MODE" | "STRU" => reply(200, "ok"),
            "PWD" => [&b"257 "[..], &quoted(&self.directory), b" is the current directory\r\n"].concat(),
            "CWD" => self.change_directory(self.path(argument)),
            "CDUP" => self.change_directory(self.path(b"..")),
            "EPSV" | "PASV" => self.passive(verb, argument).await?,
            "EPRT" | "PORT" => self.active(verb, argument),
            "REST" => self.rest(argument),
            "STOR" => return self.store(self.path(argument), restart, steps).await,
            "APPE" => reply(550, "APPE is not allowed"),
            "RETR" => return self.retrieve(self.path(argument), restart, steps).await,
            "MLSD" if !self.behaviour.mlst => unknown(),
            "MLSD" | "LIST" | "NLST" => return self.list(verb, argument, steps).await,
            "ABOR" => {
                self.data = None;
                reply(226, "Nothing to abort")
            }
            "RNFR" => return self.rename_from(self.path(argument)),
            "RNTO" => return self.rename_to(rename_from, self.path(argument)),
            _ => self.about_a_file(verb, argument).unwrap_or_else(|refusal| refusal),
        })
    }

    async fn auth(&mut self, argument: &[u8]) -> Answer {
        if !self.behaviour.auth || self.shared.security == super::Security::Clear {
            return Ok(reply(500, "AUTH not understood"));
        }
        if self.control.is_secure() || !argument.eq_ignore_ascii_case(b"TLS") && !argument.eq_ignore_ascii_case(b"SSL") {
            return Ok(reply(504, "AUTH type not supported"));
        }
        self.say(&reply(234, "AUTH TLS successful")).await?;
        self.secure().await?;
        Ok(Vec::new())
    }

    fn pass(&mut self, argument: &[u8]) -> Vec<u8> {
        let recorder = &self.shared.recorder;
        recorder.passwords.fetch_add(1, Ordering::SeqCst);
        if !self.control.is_secure() {
            recorder.clear_passwords.fetch_add(1, Ordering::SeqCst);
        }
        let right = self.user == self.shared.user.as_bytes() && argument == self.shared.password.as_bytes();
        if right && !self.behaviour.login_refused { self.admit() } else { reply(530, "Login incorrect") }
    }

    fn features(&self) -> Vec<u8> {
        let behaviour = &self.behaviour;
        let tls = behaviour.auth && self.shared.security != super::Security::Clear;
        let known = [
            (tls, " AUTH TLS"),
            (tls, " PBSZ"),
            (tls, " PROT"),
            (true, " UTF8"),
            (true, " TVFS"),
            (behaviour.passive.epsv, " EPSV"),
            (true, " EPRT"),
            (behaviour.size, " SIZE"),
            (behaviour.times, " MDTM"),
            (behaviour.times, " MFMT"),
            (behaviour.restart.rule != RestartRule::Unknown, " REST STREAM"),
            (behaviour.mlst, " MLST type*;size*;modify*;UNIX.mode*;"),
            (behaviour.hashes, " HASH SHA-256*;MD5;CRC32"),
            (behaviour.hashes, " XSHA256"),
            (behaviour.hashes, " XMD5"),
            (behaviour.hashes, " XCRC"),
            (behaviour.site_chmod, " SITE CHMOD"),
            (behaviour.avbl, " AVBL"),
        ];
        let lines: String = known.into_iter().filter(|(on, _)| *on).map(|(_, line)| format!("{line}\r\n")).collect();
        format!("211-Features:\r\n{lines}211 End\r\n").into_bytes()
    }

    fn options(&mut self, argument: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(argument).to_ascii_uppercase();
        match text.split(' ').collect::<Vec<_>>()[..] {
            ["UTF8" | "UTF-8", ..] => reply(200, "UTF8 set to on"),
            ["MLST", ..] if self.behaviour.mlst => reply(200, "MLST OPTS type;size;modify;UNIX.mode;"),
            ["HASH", name @ ("SHA-256" | "MD5" | "CRC32")] if self.behaviour.hashes => {
                self.hash = name.to_owned();
                reply(200, name)
            }
            _ => reply(501, "Option not understood"),
        }
    }

    fn prot(&mut self, argument: &[u8]) -> Vec<u8> {
        if !self.control.is_secure() {
            return reply(503, "PROT not allowed on insecure control connection");
        }
        match argument {
            b"P" if self.behaviour.prot_p => self.protected = true,
            b"C" => self.protected = false,
            _ => return reply(536, "Protection level not supported"),
        }
        reply(200, "Protection set")
    }

    fn transfer_type(&mut self, argument: &[u8]) -> Vec<u8> {
        match argument {
            b"I" | b"i" | b"L8" | b"L 8" => self.binary = true,
            b"A" | b"a" | b"A N" => self.binary = false,
            _ => return reply(504, "Type not supported"),
        }
        reply(200, "Type set")
    }

    fn change_directory(&mut self, path: Vec<u8>) -> Vec<u8> {
        match self.real(&path, true) {
            Ok(real) if real.is_dir() => {
                self.directory = path;
                reply(250, "Directory changed")
            }
            Ok(_) => reply(550, "Not a directory"),
            Err(refusal) => refusal,
        }
    }

    fn rest(&mut self, argument: &[u8]) -> Vec<u8> {
        if self.behaviour.restart.rule == RestartRule::Unknown {
            return unknown();
        }
        match std::str::from_utf8(argument).ok().and_then(|text| text.trim().parse().ok()) {
            Some(offset) => {
                self.restart = offset;
                reply(350, format!("Restarting at {offset}"))
            }
            None => reply(501, "REST needs a number"),
        }
    }

    /// The file behind a path of the client.
    pub fn real(&self, path: &[u8], follow: bool) -> Result<PathBuf, Vec<u8>> {
        self.shared.storage.resolve(path, follow).map_err(|error| refused(&error))
    }

    fn rename_from(&mut self, path: Vec<u8>) -> Answer {
        if self.behaviour.rename == Rename::Denied {
            return Ok(reply(550, "Permission denied"));
        }
        if let Err(refusal) = self.real(&path, false).and_then(|real| real.symlink_metadata().map_err(|error| refused(&error))) {
            return Ok(refusal);
        }
        self.rename_from = Some(path);
        if self.shared.cuts(&self.behaviour, Cut::AfterRenameFrom) {
            return Err(over());
        }
        Ok(reply(350, "Ready for RNTO"))
    }

    fn rename_to(&mut self, from: Option<Vec<u8>>, to: Vec<u8>) -> Answer {
        let Some(from) = from else { return Ok(reply(503, "RNFR first")) };
        Ok(match self.rename(&from, &to) {
            Ok(()) if self.shared.cuts(&self.behaviour, Cut::AfterRename) => return Err(over()),
            Ok(()) => reply(250, "Renamed"),
            Err(refusal) => refusal,
        })
    }

    fn rename(&self, from: &[u8], to: &[u8]) -> Result<(), Vec<u8>> {
        let (old, new) = (self.real(from, false)?, self.real(to, false)?);
        let flags = if self.behaviour.rename == Rename::RefusesExisting { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
        rustix::fs::renameat_with(CWD, &old, CWD, &new, flags).map_err(|error| refused(&error.into()))?;
        self.shared.storage.shrank();
        self.shared.named(NameEventKind::RenamedFrom(shown_name(from)), &shown_name(to), &new);
        Ok(())
    }

    /// Commands whose argument is a path and whose answer is one line or a few.
    fn about_a_file(&mut self, verb: &str, argument: &[u8]) -> Tried {
        let behaviour = self.behaviour.clone();
        let path = self.path(argument);
        let failed = |error: io::Error| refused(&error);
        match verb {
            "SIZE" if behaviour.size => {
                if !self.binary {
                    return Err(reply(550, "SIZE not allowed in ASCII mode"));
                }
                Ok(reply(213, self.file(&path)?.1.len().to_string()))
            }
            "MDTM" if behaviour.times => Ok(reply(213, stamp(self.file(&path)?.1.modified().map_err(failed)?))),
            "MFMT" if behaviour.times => self.set_time(argument),
            "MLST" if behaviour.mlst => {
                let metadata = self.real(&path, true)?.metadata().map_err(failed)?;
                Ok([&b"250-Listing\r\n "[..], facts(&metadata).as_bytes(), b" ", &path, b"\r\n250 End\r\n"].concat())
            }
            "DELE" => {
                let real = self.real(&path, false)?;
                std::fs::remove_file(&real).map_err(failed)?;
                self.shared.storage.shrank();
                self.shared.named(NameEventKind::Removed, &shown_name(&path), &real);
                Ok(reply(250, "Deleted"))
            }
            "MKD" | "XMKD" => {
                std::fs::create_dir(self.real(&path, false)?).map_err(failed)?;
                Ok([&b"257 "[..], &quoted(&path), b" created\r\n"].concat())
            }
            "RMD" | "XRMD" => {
                let real = self.real(&path, false)?;
                if real == self.shared.storage.root() {
                    return Err(reply(550, "Permission denied"));
                }
                std::fs::remove_dir(real).map_err(failed)?;
                Ok(reply(250, "Removed"))
            }
            "HASH" if behaviour.hashes => {
                let (real, metadata) = self.file(&path)?;
                let digest = digest(&real, &self.hash).map_err(failed)?;
                let range = format!("213 {} 0-{} {digest} ", self.hash, metadata.len().saturating_sub(1));
                Ok([range.as_bytes(), argument, b"\r\n"].concat())
            }
            "XSHA256" | "XMD5" | "XCRC" if behaviour.hashes => {
                let name = match verb {
                    "XSHA256" => "SHA-256",
                    "XMD5" => "MD5",
                    _ => "CRC32",
                };
                Ok(reply(250, digest(&self.file(&path)?.0, name).map_err(failed)?))
            }
            "AVBL" if behaviour.avbl => {
                let free = match behaviour.capacity {
                    Some(capacity) => self.shared.storage.free(capacity).map_err(failed)?,
                    None => {
                        let found = rustix::fs::statvfs(&self.real(&path, true)?).map_err(|error| failed(error.into()))?;
                        found.f_bavail.saturating_mul(found.f_frsize)
                    }
                };
                Ok(reply(213, free.to_string()))
            }
            "SITE" => self.site(argument),
            _ => Err(unknown()),
        }
    }

    /// The path and metadata of a plain file.
    fn file(&self, path: &[u8]) -> Result<(PathBuf, std::fs::Metadata), Vec<u8>> {
        let real = self.real(path, true)?;
        let metadata = real.metadata().map_err(|error| refused(&error))?;
        if metadata.is_file() { Ok((real, metadata)) } else { Err(reply(550, "Not a plain file")) }
    }

    fn set_time(&self, argument: &[u8]) -> Tried {
        let (time, name) = split(argument);
        let time = DateTime::strptime("%Y%m%d%H%M%S", time.split('.').next().unwrap_or_default());
        let Some(time) = time.ok().and_then(|time| time.to_zoned(TimeZone::UTC).ok()) else {
            return Err(reply(501, "Time not understood"));
        };
        let since = Duration::try_from_secs_f64(time.timestamp().as_second() as f64).map_err(|_| reply(501, "Time not understood"))?;
        let modified = SystemTime::UNIX_EPOCH + since;
        let real = self.real(&self.path(name), true)?;
        let set = std::fs::File::options().write(true).open(real).and_then(|file| file.set_modified(modified));
        set.map_err(|error| refused(&error))?;
        Ok([format!("213 Modify={}; ", stamp(modified)).as_bytes(), name, b"\r\n"].concat())
    }

    fn site(&self, argument: &[u8]) -> Tried {
        let (command, rest) = split(argument);
        let (mode, name) = split(rest);
        if command != "CHMOD" || !self.behaviour.site_chmod {
            return Err(unknown());
        }
        let mode = u32::from_str_radix(&mode, 8).map_err(|_| reply(501, "Mode not understood"))?;
        let real = self.real(&self.path(name), true)?;
        std::fs::set_permissions(real, Permissions::from_mode(mode & 0o777)).map_err(|error| refused(&error))?;
        Ok(reply(200, "Mode changed"))
    }
}

fn unknown() -> Vec<u8> {
    reply(502, "Command not implemented")
}
