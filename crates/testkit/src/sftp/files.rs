//! What each request does to the storage, in OpenSSH's words where `Behaviour` does not say otherwise.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, RenameFlags};

use super::behaviour::{CorruptionKind, RenameRule};
use super::operation::NameEventKind;
use super::session::{Handle, OpenDirectory, OpenFile, Session, shown};
use super::storage::{attributes_of, listing_line, normalise, times_of};
use super::wire::{self, Attributes, Request};

/// Names in one reply to READDIR, as OpenSSH sends them.
const NAMES_PER_REPLY: usize = 100;

/// Either a complete reply or a status code.
type Answer = Result<Bytes, u32>;

fn refused(error: io::Error) -> u32 {
    wire::code_of(&error)
}

impl Session {
    pub(super) fn perform(&mut self, id: u32, request: Request) -> Bytes {
        let done = |()| wire::status(id, wire::OK, wire::text_of(wire::OK));
        let extensions = self.behaviour.extensions;
        let answer = match request {
            Request::Open { path, flags, attributes } => self.open(id, &normalise(&path), flags, &attributes),
            Request::Close { handle } => self.close(&handle).map(done),
            Request::Read { handle, offset, length } => self.read(id, &handle, offset, length),
            Request::Write { handle, offset, data } => self.write(&handle, offset, &data).map(done),
            Request::Stat { path, follow } => self.stat(&normalise(&path), follow).map(|found| wire::attributes(id, &found)),
            Request::StatHandle { handle } => self.stat_handle(&handle).map(|found| wire::attributes(id, &found)),
            Request::SetStat { path, attributes } => self.set_stat(&normalise(&path), &attributes).map(done),
            Request::SetStatHandle { handle, attributes } => self.set_stat_handle(&handle, &attributes).map(done),
            Request::OpenDirectory { path } => self.open_directory(id, &normalise(&path)),
            Request::ReadDirectory { handle } => self.read_directory(id, &handle),
            Request::Remove { path } => self.remove(&normalise(&path)).map(done),
            Request::MakeDirectory { path, attributes } => self.make_directory(&normalise(&path), &attributes).map(done),
            Request::RemoveDirectory { path } => self.remove_directory(&normalise(&path)).map(done),
            Request::RealPath { path } => Ok(one_name(id, normalise(&path))),
            Request::ReadLink { path } => self.read_link(id, &normalise(&path)),
            Request::Rename { from, to } => self.rename(&normalise(&from), &normalise(&to), false).map(done),
            Request::PosixRename { from, to } if extensions.posix_rename => self.rename(&normalise(&from), &normalise(&to), true).map(done),
            Request::HardLink { from, to } if extensions.hardlink => self.link(&normalise(&from), &normalise(&to)).map(done),
            Request::Sync { handle } if extensions.fsync => self.sync(&handle).map(done),
            Request::FreeSpace { path } if extensions.statvfs => self.free_space(id, &normalise(&path)),
            Request::FreeSpaceHandle { .. } if extensions.statvfs => self.free_space(id, b"/"),
            Request::Limits if extensions.limits => {
                let limits = self.behaviour.limits;
                let numbers = [limits.max_packet, limits.max_read, limits.max_write, limits.max_handles];
                Ok(wire::extended_reply(id, &numbers.map(u64::from)))
            }
            _ => Err(wire::OP_UNSUPPORTED),
        };
        answer.unwrap_or_else(|code| wire::status(id, code, wire::text_of(code)))
    }

    fn file(&self, handle: &Bytes) -> Result<&OpenFile, u32> {
        match self.handles.get(handle) {
            Some(Handle::File(file)) => Ok(file),
            _ => Err(wire::FAILURE),
        }
    }

    fn open(&mut self, id: u32, path: &[u8], flags: u32, attributes: &Attributes) -> Answer {
        if self.handles.len() >= self.behaviour.limits.max_handles as usize {
            return Err(wire::FAILURE);
        }
        let has = |flag: u32| flags & flag != 0;
        let write = has(wire::OPEN_WRITE) || has(wire::OPEN_APPEND);
        let read = has(wire::OPEN_READ);
        if !read && !write {
            return Err(wire::BAD_MESSAGE);
        }
        if read && self.behaviour.write_only {
            return Err(wire::PERMISSION_DENIED);
        }
        let exclusive = has(wire::OPEN_CREATE) && has(wire::OPEN_EXCLUSIVE);
        let real = self.shared.storage.resolve(path, !exclusive).map_err(refused)?;
        let existed = real.symlink_metadata().is_ok();
        let mut options = OpenOptions::new();
        options.read(read).write(write).mode(attributes.permissions.unwrap_or(0o666) & 0o777);
        if write {
            options.truncate(has(wire::OPEN_TRUNCATE) && !exclusive);
            if exclusive {
                options.create_new(true);
            } else {
                options.create(has(wire::OPEN_CREATE));
            }
        }
        let file = options.open(&real).map_err(refused)?;
        if file.metadata().map_err(refused)?.is_dir() {
            return Err(wire::FAILURE);
        }
        let path = shown(path);
        let created = write && !existed;
        if created {
            self.shared.named(NameEventKind::Created, &path, &real);
        } else if write && has(wire::OPEN_TRUNCATE) {
            self.shared.storage.shrank();
            self.shared.named(NameEventKind::Emptied, &path, &real);
        }
        let spoilt = write && self.shared.is_spoilt(&path, created || has(wire::OPEN_TRUNCATE), &self.behaviour);
        let file = OpenFile { file: Arc::new(file), path, readable: read, writable: write, append: has(wire::OPEN_APPEND), spoilt };
        let handle = self.new_handle(Handle::File(file));
        Ok(wire::handle(id, &handle))
    }

    fn close(&mut self, handle: &Bytes) -> Result<(), u32> {
        match self.handles.remove(handle) {
            Some(Handle::File(file)) => {
                self.shared.recorder.open_files.down();
                self.leave_tail(&file).map_err(refused)
            }
            Some(Handle::Directory(_)) => Ok(()),
            None => Err(wire::FAILURE),
        }
    }

    /// The stale tail appears once, as soon as somebody could look at the whole file.
    fn leave_tail(&self, file: &OpenFile) -> io::Result<()> {
        let Some(CorruptionKind::StaleTail { length }) = self.behaviour.corruption.map(|corruption| corruption.kind) else { return Ok(()) };
        if file.spoilt && file.writable && self.shared.take_tail(&file.path) {
            let end = file.file.metadata()?.len();
            file.file.write_all_at(&vec![b'~'; length as usize], end)?;
        }
        Ok(())
    }

    fn read(&self, id: u32, handle: &Bytes, offset: u64, length: u32) -> Answer {
        let file = self.file(handle)?;
        if !file.readable || self.behaviour.write_only {
            return Err(wire::PERMISSION_DENIED);
        }
        let mut buffer = vec![0; length.min(self.behaviour.limits.max_read) as usize];
        let mut filled = 0;
        while filled < buffer.len() {
            match file.file.read_at(&mut buffer[filled..], offset + filled as u64).map_err(refused)? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 && length > 0 {
            return Err(wire::EOF);
        }
        self.shared.recorder.read(filled as u64);
        Ok(wire::data(id, &buffer[..filled]))
    }

    fn write(&self, handle: &Bytes, offset: u64, data: &Bytes) -> Result<(), u32> {
        let file = self.file(handle)?;
        if !file.writable {
            return Err(wire::PERMISSION_DENIED);
        }
        if data.len() > self.behaviour.limits.max_write as usize || offset.checked_add(data.len() as u64).is_none() {
            return Err(wire::FAILURE);
        }
        let offset = if file.append || self.behaviour.offsets_ignored { file.file.metadata().map_err(refused)?.len() } else { offset };
        match self.behaviour.corruption.filter(|_| file.spoilt) {
            None => self.store(file, offset, data).map_err(refused)?,
            Some(corruption) => {
                for (offset, bytes) in corruption.place(offset, data) {
                    self.store(file, offset, &bytes).map_err(refused)?;
                }
            }
        }
        self.shared.recorder.wrote(&file.path, data.len() as u64);
        Ok(())
    }

    fn store(&self, file: &OpenFile, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.behaviour.tracks_unsynced {
            self.shared.storage.will_write(&file.file, offset, data.len() as u64)?;
        }
        self.shared.storage.write(&file.file, offset, data, self.behaviour.capacity)
    }

    fn sync(&self, handle: &Bytes) -> Result<(), u32> {
        let file = self.file(handle)?;
        // A disk may take long; the other channels go on.
        tokio::task::block_in_place(|| self.shared.storage.sync(&file.file)).map_err(refused)
    }

    fn stat(&self, path: &[u8], follow: bool) -> Result<Attributes, u32> {
        if self.behaviour.stat_denied {
            return Err(wire::PERMISSION_DENIED);
        }
        let real = self.shared.storage.resolve(path, follow).map_err(refused)?;
        Ok(attributes_of(&real.symlink_metadata().map_err(refused)?))
    }

    fn stat_handle(&self, handle: &Bytes) -> Result<Attributes, u32> {
        if self.behaviour.stat_denied {
            return Err(wire::PERMISSION_DENIED);
        }
        let file = self.file(handle)?;
        self.leave_tail(file).map_err(refused)?;
        Ok(attributes_of(&file.file.metadata().map_err(refused)?))
    }

    fn set_stat(&self, path: &[u8], attributes: &Attributes) -> Result<(), u32> {
        let real = self.shared.storage.resolve(path, true).map_err(refused)?;
        if let Some(size) = attributes.size {
            let file = OpenOptions::new().write(true).open(&real).map_err(refused)?;
            file.set_len(size).map_err(refused)?;
            self.shared.storage.shrank();
        }
        if let Some(permissions) = attributes.permissions {
            std::fs::set_permissions(&real, std::fs::Permissions::from_mode(permissions & 0o7777)).map_err(refused)?;
        }
        if let Some(times) = attributes.times {
            rustix::fs::utimensat(CWD, &real, &times_of(times), AtFlags::empty()).map_err(|error| refused(error.into()))?;
        }
        real.symlink_metadata().map(drop).map_err(refused)
    }

    fn set_stat_handle(&self, handle: &Bytes, attributes: &Attributes) -> Result<(), u32> {
        let file: &File = &self.file(handle)?.file;
        if let Some(size) = attributes.size {
            file.set_len(size).map_err(refused)?;
            self.shared.storage.shrank();
        }
        if let Some(permissions) = attributes.permissions {
            file.set_permissions(std::fs::Permissions::from_mode(permissions & 0o7777)).map_err(refused)?;
        }
        if let Some(times) = attributes.times {
            rustix::fs::futimens(file, &times_of(times)).map_err(|error| refused(error.into()))?;
        }
        Ok(())
    }

    fn open_directory(&mut self, id: u32, path: &[u8]) -> Answer {
        if self.behaviour.write_only {
            return Err(wire::PERMISSION_DENIED);
        }
        if self.handles.len() >= self.behaviour.limits.max_handles as usize {
            return Err(wire::FAILURE);
        }
        let real = self.shared.storage.resolve(path, true).map_err(refused)?;
        let itself = attributes_of(&real.symlink_metadata().map_err(refused)?);
        let mut entries = vec![(b".".to_vec(), itself), (b"..".to_vec(), itself)];
        for entry in std::fs::read_dir(&real).map_err(refused)? {
            let entry = entry.map_err(refused)?;
            // A file that went in the meantime is simply not listed.
            if let Ok(metadata) = entry.metadata() {
                entries.push((entry.file_name().as_bytes().to_vec(), attributes_of(&metadata)));
            }
        }
        entries.extend(self.behaviour.extra_names.iter().map(|name| (name.clone(), itself)));
        let with_line = |(name, attributes): (Vec<u8>, Attributes)| {
            let line = listing_line(&name, &attributes);
            (name, line, attributes)
        };
        let entries = entries.into_iter().rev().map(with_line).collect();
        let handle = self.new_handle(Handle::Directory(OpenDirectory { path: shown(path), entries }));
        Ok(wire::handle(id, &handle))
    }

    fn read_directory(&mut self, id: u32, handle: &Bytes) -> Answer {
        let Some(Handle::Directory(directory)) = self.handles.get_mut(handle) else { return Err(wire::FAILURE) };
        if directory.entries.is_empty() {
            return Err(wire::EOF);
        }
        let rest = directory.entries.len().saturating_sub(NAMES_PER_REPLY);
        let mut names = directory.entries.split_off(rest);
        names.reverse();
        Ok(wire::names(id, &names))
    }

    fn remove(&self, path: &[u8]) -> Result<(), u32> {
        let real = self.shared.storage.resolve(path, false).map_err(refused)?;
        std::fs::remove_file(&real).map_err(refused)?;
        self.shared.storage.shrank();
        self.shared.named(NameEventKind::Removed, &shown(path), &real);
        Ok(())
    }

    fn make_directory(&self, path: &[u8], attributes: &Attributes) -> Result<(), u32> {
        let real = self.shared.storage.resolve(path, false).map_err(refused)?;
        std::fs::create_dir(&real).map_err(refused)?;
        if let Some(permissions) = attributes.permissions {
            std::fs::set_permissions(&real, std::fs::Permissions::from_mode(permissions & 0o777)).map_err(refused)?;
        }
        Ok(())
    }

    fn remove_directory(&self, path: &[u8]) -> Result<(), u32> {
        let real = self.shared.storage.resolve(path, false).map_err(refused)?;
        if real == self.shared.storage.root() {
            return Err(wire::PERMISSION_DENIED);
        }
        std::fs::remove_dir(real).map_err(refused)
    }

    fn read_link(&self, id: u32, path: &[u8]) -> Answer {
        let real = self.shared.storage.resolve(path, false).map_err(refused)?;
        let target = std::fs::read_link(real).map_err(refused)?;
        Ok(one_name(id, target.as_os_str().as_bytes().to_vec()))
    }

    fn rename(&self, from: &[u8], to: &[u8], replace: bool) -> Result<(), u32> {
        let replace = match self.behaviour.rename {
            RenameRule::Denied => return Err(wire::PERMISSION_DENIED),
            RenameRule::Unsupported => return Err(wire::OP_UNSUPPORTED),
            RenameRule::Overwrites => true,
            RenameRule::RefusesExisting => replace,
        };
        let storage = &self.shared.storage;
        let (old, new) = (storage.resolve(from, false).map_err(refused)?, storage.resolve(to, false).map_err(refused)?);
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        rustix::fs::renameat_with(CWD, &old, CWD, &new, flags)
            .or_else(|error| if error == rustix::io::Errno::INVAL { rename_in_two_steps(&old, &new, replace) } else { Err(error.into()) })
            .map_err(refused)?;
        storage.shrank();
        self.shared.named(NameEventKind::RenamedFrom(shown(from)), &shown(to), &new);
        Ok(())
    }

    fn link(&self, from: &[u8], to: &[u8]) -> Result<(), u32> {
        let storage = &self.shared.storage;
        let (old, new) = (storage.resolve(from, false).map_err(refused)?, storage.resolve(to, false).map_err(refused)?);
        std::fs::hard_link(old, &new).map_err(refused)?;
        self.shared.named(NameEventKind::LinkedFrom(shown(from)), &shown(to), &new);
        Ok(())
    }

    fn free_space(&self, id: u32, path: &[u8]) -> Answer {
        let real = self.shared.storage.resolve(path, true).map_err(refused)?;
        let found = rustix::fs::statvfs(&real).map_err(|error| refused(error.into()))?;
        let (unit, total, free) = match self.behaviour.capacity {
            // Counted in single bytes, so that the number is exact and 0 means 0.
            Some(capacity) => (1, capacity, self.shared.storage.free(capacity).map_err(refused)?),
            None => (found.f_frsize, found.f_blocks, found.f_bavail),
        };
        let numbers = [unit, unit, total, free, free, found.f_files, found.f_ffree, found.f_favail, found.f_fsid, 0, found.f_namemax];
        Ok(wire::extended_reply(id, &numbers))
    }
}

fn one_name(id: u32, name: Vec<u8>) -> Bytes {
    let line = String::from_utf8_lossy(&name).into_owned();
    wire::names(id, &[(name, line, Attributes::default())])
}

/// For file systems that know no flags to rename.
fn rename_in_two_steps(old: &Path, new: &Path, replace: bool) -> io::Result<()> {
    if replace {
        return std::fs::rename(old, new);
    }
    std::fs::hard_link(old, new)?;
    std::fs::remove_file(old)
}
