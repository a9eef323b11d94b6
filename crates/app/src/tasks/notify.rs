//! NotifyUser: one notice for each way of telling, with counts and the names of what failed.

use serde::{Deserialize, Serialize};
use store::Delivering;

use super::Tasks;
use super::outcome::Outcome;
use super::step::{Done, Step, Stopped};
use crate::manifest::json;

/// The body of a row of the outbox that is a notice.
#[derive(Debug, Serialize, Deserialize)]
pub struct NoticeWords {
    pub title: String,
    pub text: String,
}

impl Tasks {
    pub(super) async fn notify(&self, step: &Step) -> Result<Done, Stopped> {
        let outcome = Outcome::of(&self.store, step).await?;
        let words = json(&NoticeWords { title: outcome.title(), text: outcome.text(self.clock.wall()) })?;
        let subject = step.transfer.to_string();
        // Nobody can tell whether people have seen a notice, so it is not told twice.
        let told = |target: &String| self.message(step, target, (target, &subject), words.clone(), Delivering::AtMostOnce);
        let effects = self.settings.notifiers.iter().map(told).collect::<Result<_, _>>()?;
        Ok(Done { effects, ..Done::default() })
    }
}
