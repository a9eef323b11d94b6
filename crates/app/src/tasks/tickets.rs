//! UpdateServiceNow: what both tickets are told, when a transfer begins and when a run of it ends. It is written through
//! the outbox, so that an outage of the ticket system delays the words and nothing else.

use integrations::{Fault, TicketChange};
use model::{ErrorClass, TicketState, TransferState};
use serde::{Deserialize, Serialize};
use store::{Delivering, OutboxState, RequestRecord};

use super::Tasks;
use super::outcome::Outcome;
use super::step::{Done, Step, Stopped};
use crate::error::{Error, Result};
use crate::manifest::json;

/// Where the outbox hands a row to the ticket system.
pub const TARGET: &str = "tickets";

/// The body of such a row.
#[derive(Debug, Serialize, Deserialize)]
pub struct TicketWords {
    pub state: Option<TicketState>,
    pub note: Option<String>,
}

impl Tasks {
    pub(super) async fn update_tickets(&self, step: &Step, request: &RequestRecord) -> Result<Done, Stopped> {
        let outcome = Outcome::of(&self.store, step).await?;
        let note = format!("{}\n{}", outcome.title(), outcome.text(self.clock.wall()));
        let (user, audit) = states(outcome.state);
        let mut effects = Vec::new();
        for (number, purpose, state) in [(&request.user_ticket, "user", user), (&request.audit_ticket, "audit", audit)] {
            let Some(number) = number else { continue };
            let words = TicketWords { state: Some(state), note: Some(note.clone()) };
            effects.push(self.message(step, purpose, (TARGET, number), json(&words)?, Delivering::AtLeastOnce)?);
        }
        Ok(Done { effects, ..Done::default() })
    }

    /// A run that goes on takes its tickets off hold, where we had put them; what was written before must have arrived.
    pub(super) async fn take_up(&self, step: &Step, request: &RequestRecord) -> Result<()> {
        let (true, Some(number)) = (step.run > 1, &request.user_ticket) else { return Ok(()) };
        let unavailable =
            |why: String| Error::new(ErrorClass::TicketUnavailable, format!("ticket {number} cannot be taken off hold: {why}"));
        let waiting = |fault| match fault {
            Fault::Refused(why) => Error::new(ErrorClass::TicketInvalid, format!("ticket {number}: {why}")),
            Fault::Unavailable(why) | Fault::Unknown(why) => unavailable(why),
        };
        let open = [OutboxState::Waiting, OutboxState::Claimed, OutboxState::Refused];
        let before = self.store.outbox(&open, Some(&step.transfer), 0, 100).await?;
        if before.iter().any(|(_, message)| message.target == TARGET && message.subject == *number) {
            return Err(unavailable("what the run before has to say still waits in the outbox".to_owned()));
        }
        let ticket = self.tickets.read(number).await.map_err(waiting)?;
        if ticket.is_some_and(|ticket| ticket.state == TicketState::OnHold) {
            let change = TicketChange { state: Some(TicketState::InProgress), note: None };
            self.tickets.write(number, &step.key("taken-up").to_string(), &change).await.map_err(waiting)?;
        }
        Ok(())
    }
}

/// What user ticket and audit ticket become. A user ticket stays open as long as somebody may still go on.
fn states(state: TransferState) -> (TicketState, TicketState) {
    match state {
        TransferState::Completed => (TicketState::Resolved, TicketState::Closed),
        TransferState::Cancelled => (TicketState::Canceled, TicketState::Closed),
        TransferState::Held | TransferState::Paused => (TicketState::OnHold, TicketState::OnHold),
        _ => (TicketState::InProgress, TicketState::Closed),
    }
}
