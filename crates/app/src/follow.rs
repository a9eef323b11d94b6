//! Who is told that a file has ended: what goes with it may follow, and in an ordered transfer the next file may begin.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use model::{ErrorClass, FileNumber, FileState};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

/// Told after the end of a file was recorded.
pub trait Follow: Send + Sync {
    fn ended(&self, file: FileNumber, state: FileState, class: Option<ErrorClass>);
}

/// One file at a time, with everything that goes with it. After a failure nobody has a turn any more.
#[derive(Debug, Default)]
pub struct Turns {
    state: Mutex<TurnState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct TurnState {
    taken: bool,
    broken: Option<ErrorClass>,
}

/// What a feed may do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    Free,
    Taken,
    Broken,
}

impl Turns {
    pub fn look(&self) -> Turn {
        let state = self.state.lock().expect("no panic while holding the lock");
        match (&state.broken, state.taken) {
            (Some(_), _) => Turn::Broken,
            (None, true) => Turn::Taken,
            (None, false) => Turn::Free,
        }
    }

    pub fn take(&self) {
        self.state.lock().expect("no panic while holding the lock").taken = true;
    }

    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// Why nothing more is published.
    pub fn broken(&self) -> Option<ErrorClass> {
        self.state.lock().expect("no panic while holding the lock").broken
    }

    pub fn over(&self, failed: Option<ErrorClass>) {
        let mut state = self.state.lock().expect("no panic while holding the lock");
        state.taken = false;
        state.broken = state.broken.or(failed);
        drop(state);
        self.changed.notify_waiters();
    }

    pub fn wake(&self) {
        self.changed.notify_waiters();
    }
}

/// Passes the numbers of delivered files on to those who send what goes with them.
#[derive(Debug)]
pub struct Following {
    /// `None` where nothing goes with a file, and after the last one.
    to: Mutex<Option<UnboundedSender<FileNumber>>>,
    turns: Option<Arc<Turns>>,
    /// Companions under way: the file of each, and how many each file still has.
    of: Mutex<HashMap<FileNumber, FileNumber>>,
    open: Mutex<HashMap<FileNumber, usize>>,
}

impl Following {
    pub fn new(to: Option<UnboundedSender<FileNumber>>, turns: Option<Arc<Turns>>) -> Self {
        Self { to: Mutex::new(to), turns, of: Mutex::default(), open: Mutex::default() }
    }

    /// Every file has ended.
    pub fn close(&self) {
        self.to.lock().expect("no panic while holding the lock").take();
    }

    /// These companions of a file are about to be sent.
    pub fn begin(&self, file: FileNumber, companions: &[FileNumber]) {
        if companions.is_empty() {
            return self.over(None);
        }
        self.of.lock().expect("no panic while holding the lock").extend(companions.iter().map(|companion| (*companion, file)));
        self.open.lock().expect("no panic while holding the lock").insert(file, companions.len());
    }

    fn over(&self, failed: Option<ErrorClass>) {
        if let Some(turns) = &self.turns {
            turns.over(failed);
        }
    }

    /// What is told of the companions themselves.
    pub fn companion_ended(&self, companion: FileNumber, class: Option<ErrorClass>) {
        let Some(file) = self.of.lock().expect("no panic while holding the lock").remove(&companion) else { return };
        let mut open = self.open.lock().expect("no panic while holding the lock");
        let left = open.get(&file).copied().unwrap_or(1) - 1;
        if left == 0 {
            open.remove(&file);
        } else {
            open.insert(file, left);
        }
        drop(open);
        if left == 0 || class.is_some() {
            self.over(class);
        }
    }
}

impl Follow for Following {
    fn ended(&self, file: FileNumber, state: FileState, class: Option<ErrorClass>) {
        if !state.is_success() {
            return self.over(Some(class.unwrap_or(ErrorClass::Internal)));
        }
        let to = self.to.lock().expect("no panic while holding the lock");
        let passed_on = to.as_ref().is_some_and(|to| to.send(file).is_ok());
        drop(to);
        if !passed_on {
            self.over(None);
        }
    }
}

/// The same for the ledger of the companions.
#[derive(Debug)]
pub struct OfCompanions(pub Arc<Following>);

impl Follow for OfCompanions {
    fn ended(&self, file: FileNumber, state: FileState, class: Option<ErrorClass>) {
        let class = if state.is_success() { None } else { Some(class.unwrap_or(ErrorClass::Internal)) };
        self.0.companion_ended(file, class);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_turn_comes_when_a_file_and_all_its_companions_have_ended() {
        let turns = Arc::new(Turns::default());
        let (to, mut from) = tokio::sync::mpsc::unbounded_channel();
        let following = Following::new(Some(to), Some(turns.clone()));
        turns.take();
        following.ended(FileNumber(3), FileState::Delivered, None);
        assert_eq!((from.try_recv(), turns.look()), (Ok(FileNumber(3)), Turn::Taken));
        following.begin(FileNumber(3), &[FileNumber(100), FileNumber(101)]);
        following.companion_ended(FileNumber(101), None);
        assert_eq!(turns.look(), Turn::Taken);
        following.companion_ended(FileNumber(100), None);
        assert_eq!(turns.look(), Turn::Free);
        turns.take();
        following.ended(FileNumber(4), FileState::Failed, Some(ErrorClass::DestExists));
        assert_eq!((turns.look(), turns.broken()), (Turn::Broken, Some(ErrorClass::DestExists)));
    }
}
