//! What each process may say of each file when it ends.

use std::sync::Arc;

use model::{FileState, Grade, IfExists, Publish, Verify};
use transfer::port::{Delivery, Finished};
use transfer::{Capabilities, ErrorKind};

use super::script::Script;
use super::world::{Asked, KEYS, Truth, World, final_name};
use crate::harness::{Ferry, Kept};

pub struct Judge<'a> {
    pub world: &'a Arc<World>,
    pub server: &'a Capabilities,
    pub verify: Verify,
    pub keys: &'a [&'static str],
}

/// How one process ended.
pub struct Run<'a> {
    pub ferry: &'a Ferry,
    pub script: &'a Script,
    /// `None`: it was killed.
    pub outcome: Option<transfer::Result<()>>,
    /// Nothing happened to this one: every file has its end now.
    pub undisturbed: bool,
    /// Nothing happened to any process of this transfer.
    pub eventless: bool,
}

impl Judge<'_> {
    pub fn after(&self, run: &Run<'_>) -> Result<(), String> {
        match &run.outcome {
            Some(Err(error)) if error.kind == ErrorKind::Cancelled && run.script.stop.is_cancelled() => {}
            Some(Err(error)) => return Err(format!("the run ended with {}", transfer::error::chain(error))),
            None | Some(Ok(())) => {}
        }
        let asked = self.world.truth.lock().unwrap().asked.clone().expect("a transfer is under way");
        for (number, key) in self.keys.iter().enumerate() {
            let kept = run.ferry.records.kept(number as u32);
            self.file(run, &asked, key, &kept).map_err(|why| format!("{key} ({} bytes): {why}", asked.wanted[key].len()))?;
        }
        if run.undisturbed { self.left(run) } else { Ok(()) }
    }

    fn file(&self, run: &Run<'_>, asked: &Asked, key: &'static str, kept: &Kept) -> Result<(), String> {
        match (&kept.finished, &kept.failed) {
            (Some(finished), _) => self.finished(run, asked, key, finished),
            (None, Some((kind, text, _))) => match self.may_fail(run, asked, key, *kind) {
                true => Ok(()),
                false => Err(format!("failed with {text} ({kind})")),
            },
            (None, None) if run.undisturbed => Err("nothing was said of it".to_owned()),
            (None, None) => Ok(()),
        }
    }

    fn finished(&self, run: &Run<'_>, asked: &Asked, key: &'static str, finished: &Finished) -> Result<(), String> {
        let truth = self.world.truth.lock().unwrap();
        let whole = &asked.wanted[key];
        let standing = truth.standing.get(key);
        let has = |delivery: &Option<Box<Delivery>>| delivery.clone().ok_or("delivered without saying what".to_owned());
        match finished.state {
            FileState::Delivered | FileState::Collected => {
                let stands = standing.is_some_and(|there| there[..] == whole[..]);
                let was_there = stands || truth.published.contains(key);
                let gone = truth.taken.contains(key);
                let in_place = truth.vague.contains(key);
                if in_place && self.world.destination.bytes(&final_name(key)).as_deref() != Some(&whole[..]) {
                    return Err("delivered in place, and something else stands there".to_owned());
                }
                if !in_place && !was_there && !truth.alike.contains(key) {
                    return Err(format!("{:?}, and it never stood there", finished.state));
                }
                if finished.state == FileState::Collected && !gone {
                    return Err("collected, and nobody took it".to_owned());
                }
                self.delivery(run, whole, &*has(&finished.delivery)?)
            }
            // In place, what an earlier process left stands there, and no record says whose it is.
            FileState::Skipped | FileState::Unchanged
                if asked.policy == if finished.state == FileState::Skipped { IfExists::Skip } else { IfExists::Update } =>
            {
                self.seen(others(&truth, key) || (truth.vague.contains(key) && !run.eventless))
            }
            state => Err(format!("ended as {state:?}, which was not asked for")),
        }
    }

    fn seen(&self, something: bool) -> Result<(), String> {
        if something { Ok(()) } else { Err("left alone, and nobody else's file stood there".to_owned()) }
    }

    fn delivery(&self, run: &Run<'_>, whole: &[u8], delivery: &Delivery) -> Result<(), String> {
        let sha256 = data_encoding::HEXLOWER.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, whole).as_ref());
        if delivery.pin.size != whole.len() as u64
            || delivery.crc64nvme != transfer::digest::crc64(whole)
            || delivery.sha256.as_ref() != Some(&sha256)
        {
            return Err(format!("the digests on its receipt are of something else: {delivery:?}"));
        }
        if let Verify::AtLeast(least) = self.verify
            && !delivery.grade.satisfies(least)
        {
            return Err(format!("proved as {} where {least} was asked for", delivery.grade));
        }
        if delivery.bytes_resumed > delivery.pin.size || (delivery.bytes_resumed > 0 && delivery.grade == Grade::Size) {
            return Err(format!("{} bytes resumed, {}", delivery.bytes_resumed, delivery.grade));
        }
        if delivery.grade == Grade::ReadBack && delivery.proof.bytes < delivery.pin.size {
            return Err(format!("read-back looked at {} bytes", delivery.proof.bytes));
        }
        // Only this process wrote to the file under this epoch's name.
        let ours = delivery.epoch == *run.ferry.records.epoch.lock().unwrap() && run.undisturbed;
        if ours && delivery.bytes_resumed > 0 {
            let written = run.script.written.lock().unwrap();
            let end = format!("-{}-{}.part", delivery.attempts, delivery.epoch);
            let sent: u64 = written.iter().filter(|(name, _)| name.ends_with(&end)).map(|(_, bytes)| bytes).max().copied().unwrap_or(0);
            if sent + delivery.bytes_resumed > delivery.pin.size && self.keys.len() == 1 {
                return Err(format!("{} bytes count as resumed, and {sent} were sent", delivery.bytes_resumed));
            }
        }
        Ok(())
    }

    /// The classes that what happened explains.
    fn may_fail(&self, run: &Run<'_>, asked: &Asked, key: &'static str, kind: ErrorKind) -> bool {
        let truth = self.world.truth.lock().unwrap();
        let stands = others(&truth, key) || truth.vague.contains(key);
        match kind {
            ErrorKind::DestExists => match asked.policy {
                IfExists::Fail => stands,
                IfExists::Skip => stands && asked.publish == Publish::InPlace,
                _ => stands && !asked.atomic_replace,
            },
            ErrorKind::SourceChanged | ErrorKind::SourceMissing => truth.source_changed.contains(key),
            ErrorKind::DestDenied => !self.provable() || !run.undisturbed,
            _ if run.undisturbed => false,
            ErrorKind::DestNoSpace => truth.full || self.server.is_stream(),
            ErrorKind::NetworkReset
            | ErrorKind::NetworkStalled
            | ErrorKind::DestProtocol
            | ErrorKind::DestPublishFailed
            | ErrorKind::DestUnreachable
            | ErrorKind::SourceThrottled
            | ErrorKind::IntegrityMismatch => true,
            _ => false,
        }
    }

    /// Whether this server can give the proof that was asked for, also to a file that was resumed.
    fn provable(&self) -> bool {
        let (hash, read) = (!self.server.hashes.is_empty(), self.server.read);
        match self.verify {
            Verify::Auto | Verify::AtLeast(Grade::None) => true,
            Verify::AtLeast(Grade::ServerHash) => hash,
            Verify::AtLeast(Grade::ReadBack | Grade::Sampled) => hash || read,
            Verify::AtLeast(Grade::Acknowledged | Grade::Size) => hash || read || self.server.confirms_writes,
        }
    }

    /// Whatever else lies at the destination can be told for ours.
    fn left(&self, run: &Run<'_>) -> Result<(), String> {
        for name in self.world.destination.names() {
            if KEYS.iter().any(|key| name == final_name(key)) {
                continue;
            }
            let last = name.rsplit('/').next().unwrap_or_default();
            let last = last.strip_suffix(".old").unwrap_or(last);
            let Some(parts) = model::TempName::default().read(last) else {
                return Err(format!("{name} was left and `clean` does not know it"));
            };
            if run.eventless && parts.transfer == run.ferry.transfer.short() {
                return Err(format!("{name} was left although nothing happened"));
            }
        }
        Ok(())
    }
}

/// Whether a file that is not of this transfer has stood there. Its own is never in its way: whoever publishes it and dies
/// has left the intent, and a temporary file that is gone was renamed.
fn others(truth: &Truth, key: &str) -> bool {
    truth.before.contains(key) || truth.put.contains(key)
}
