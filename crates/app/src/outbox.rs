//! The outbox delivered: a message is claimed, sent, and what became of it written down. Whoever is told may be away for
//! days; nothing is lost by that, and nothing is said twice to who could not tell.

use std::collections::BTreeMap;
use std::sync::Arc;

use integrations::notice::Notice;
use integrations::{Fault, Notifier, TicketChange, TicketSystem};
use jiff::{SignedDuration, Timestamp};
use model::ErrorClass;
use store::{Delivering, LONGEST_PAUSE, Mutation, OutboxRecord, SendFailure, Store};
use workflow::executor::Clock;

use crate::error::{Error, Result};
use crate::manifest::parse;
use crate::tasks::{NoticeWords, TICKETS, TicketWords};

/// A claim that is not settled by then belongs to a sender that died.
const CLAIM: SignedDuration = SignedDuration::from_secs(60);
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(2);

/// Everything outside that can be told something.
#[derive(Clone)]
pub struct Outlets {
    pub clock: Arc<dyn Clock>,
    pub tickets: Arc<dyn TicketSystem>,
    /// By the name that messages have as their target.
    pub notifiers: BTreeMap<String, Arc<dyn Notifier>>,
}

impl std::fmt::Debug for Outlets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlets").field("notifiers", &self.notifiers).finish_non_exhaustive()
    }
}

impl Outlets {
    /// Delivers one message that is due. `false`: somebody else has it, or something earlier must go first.
    pub async fn deliver(&self, store: &Store, message: &OutboxRecord, by: &str) -> Result<bool> {
        let now = self.clock.wall();
        let until = now.checked_add(CLAIM).map_err(|e| Error::new(ErrorClass::Internal, e.to_string()))?;
        let claim = Mutation::ClaimOutbox { key: message.key.clone(), by: by.to_owned(), now, until };
        match store.commit(claim).await {
            Ok(_) => {}
            Err(error) if error.conflict().is_some() => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let sent = self.send(message).await;
        let at = self.clock.wall();
        let settled = match sent {
            Ok(()) => Mutation::MarkSent { key: message.key.clone(), at },
            Err(fault) => {
                tracing::warn!(message = %message.key, target = %message.target, error = %fault, "not told");
                let (key, attempt) = (message.key.clone(), message.attempts + 1);
                Mutation::MarkFailed { key, attempt, how: how(&fault, message.delivering, attempt, at), error: fault.to_string(), at }
            }
        };
        match store.commit(settled).await {
            // The claim has lapsed meanwhile, and whoever has it now says what became of it.
            Err(error) if error.conflict().is_some() => Ok(true),
            outcome => outcome.map(|_| true).map_err(Error::from),
        }
    }

    async fn send(&self, message: &OutboxRecord) -> Result<(), Fault> {
        let unreadable = |error: Error| Fault::Refused(error.message);
        if message.target == TICKETS {
            let words: TicketWords = parse(&message.body).map_err(unreadable)?;
            let change = TicketChange { state: words.state, note: words.note };
            return self.tickets.write(&message.subject, &message.key.to_string(), &change).await;
        }
        let notifier = self.notifiers.get(&message.target);
        let notifier = notifier.ok_or_else(|| Fault::Unavailable(format!("nothing is configured as {}", message.target)))?;
        let words: NoticeWords = parse(&message.body).map_err(unreadable)?;
        notifier.notify(&Notice { key: message.key.to_string(), title: words.title, text: words.text }).await
    }
}

fn how(fault: &Fault, delivering: Delivering, attempt: u32, now: Timestamp) -> SendFailure {
    let wait = FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(8)).min(LONGEST_PAUSE);
    let again = SendFailure::Again { next_at: now.checked_add(wait).unwrap_or(now) };
    match (fault, delivering) {
        (Fault::Refused(_), _) => SendFailure::Refused,
        (Fault::Unavailable(_), _) | (Fault::Unknown(_), Delivering::AtLeastOnce) => again,
        (Fault::Unknown(_), Delivering::AtMostOnce) => SendFailure::Unconfirmed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_that_may_have_been_heard_is_not_told_again_and_a_ticket_is() {
        let now = Timestamp::UNIX_EPOCH;
        let unknown = Fault::Unknown("cut".into());
        assert_eq!(how(&unknown, Delivering::AtMostOnce, 1, now), SendFailure::Unconfirmed);
        assert!(matches!(how(&unknown, Delivering::AtLeastOnce, 1, now), SendFailure::Again { .. }));
        assert_eq!(how(&Fault::Refused("gone".into()), Delivering::AtLeastOnce, 1, now), SendFailure::Refused);
        let SendFailure::Again { next_at } = how(&Fault::Unavailable("away".into()), Delivering::AtMostOnce, 40, now) else { panic!() };
        assert_eq!(next_at.duration_since(now), LONGEST_PAUSE);
    }
}
