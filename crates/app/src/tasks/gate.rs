//! No approved ticket pair, no bytes: both tickets are read back when a transfer begins and again before a file gets
//! its name; then the connector must be usable, too.

use std::sync::Arc;

use async_trait::async_trait;
use integrations::{Fault, Ticket, TicketSystem};
use jiff::{SignedDuration, Timestamp};
use model::{ErrorClass, FileNumber, RemotePath, TicketKind, TicketState, TransferId};
use store::{Mutation, RequestRecord, Store};
use transfer::Pin;
use transfer::port::{PublishGate, Verdict};
use workflow::executor::Clock;

use crate::connectors::{ConnectorSettings, WhenUnreachable};
use crate::error::{Error, Result, through_engine};
use crate::hindrance::Hindrance;
use crate::ledger::StoreLedger;
use crate::settings;

/// An approved transfer, as far as its tickets and its connector are concerned.
pub struct Governed {
    store: Store,
    clock: Arc<dyn Clock>,
    request: RequestRecord,
    tickets: Arc<dyn TicketSystem>,
    /// What the connector says of a time in which nobody answers about tickets.
    unreachable: WhenUnreachable,
}

impl std::fmt::Debug for Governed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Governed({})", self.request.transfer)
    }
}

impl Governed {
    pub async fn of(store: &Store, clock: Arc<dyn Clock>, transfer: &TransferId, tickets: Arc<dyn TicketSystem>) -> Result<Self> {
        let request = super::find(store, transfer, clock.wall()).await?;
        let unreachable = connector_of(store, &request).await?.when_tickets_unreachable;
        Ok(Self { store: store.clone(), clock, request, tickets, unreachable })
    }

    /// `ticket_invalid` is a definite no, `ticket_unavailable` means that nobody answered. With `max_age` the user ticket
    /// must not be older.
    pub async fn check(&self, max_age: Option<(SignedDuration, Timestamp)>) -> Result<()> {
        let (Some(user), Some(audit)) = (&self.request.user_ticket, &self.request.audit_ticket) else {
            return Err(refused("the transfer has no pair of tickets"));
        };
        if user == audit {
            return Err(refused(format!("{user} cannot be both tickets of a transfer")));
        }
        let user = self.read(user, TicketKind::User).await?;
        self.read(audit, TicketKind::Audit).await?;
        if !matches!(user.state, TicketState::New | TicketState::InProgress) {
            return Err(refused(format!("ticket {} is {}", user.number, user.state)));
        }
        if user.opened_by != self.request.user && user.group.is_empty() {
            return Err(refused(format!("ticket {} belongs to neither {} nor a group", user.number, self.request.user)));
        }
        if let Some((most, now)) = max_age
            && now.duration_since(user.opened_at) > most
        {
            return Err(refused(format!("ticket {} was opened too long ago, on {}", user.number, user.opened_at)));
        }
        Ok(())
    }

    async fn read(&self, number: &str, kind: TicketKind) -> Result<Ticket> {
        let ticket = self.tickets.read(number).await.map_err(|fault| match fault {
            Fault::Refused(why) => refused(format!("ticket {number}: {why}")),
            Fault::Unavailable(why) | Fault::Unknown(why) => {
                Error::new(ErrorClass::TicketUnavailable, format!("the ticket system does not answer about {number}: {why}"))
            }
        })?;
        let ticket = ticket.ok_or_else(|| refused(format!("there is no ticket {number}")))?;
        if ticket.kind != kind {
            return Err(refused(format!("ticket {number} is not the {kind} ticket")));
        }
        if ticket.transfer != self.request.transfer {
            return Err(refused(format!("ticket {number} is for another transfer")));
        }
        if ticket.spec_hash != self.request.spec_hash {
            return Err(refused(format!("ticket {number} approves something else than this transfer")));
        }
        Ok(ticket)
    }

    /// Why nothing goes to the connector at this moment.
    async fn hindrance(&self) -> Result<Option<Hindrance>> {
        Hindrance::at(&self.store, &self.request.connector, self.clock.wall()).await
    }

    /// An auditor sees which files got their names while nobody answered about their tickets.
    async fn enter_unasked(&self, file: FileNumber, error: &Error) -> Result<()> {
        let detail = [("file".to_owned(), file.0.into()), ("error".to_owned(), error.message.as_str().into())];
        let entry = Mutation::AddAudit {
            transfer: Some(self.request.transfer.clone()),
            event: "tickets_not_asked".to_owned(),
            detail: detail.into_iter().collect(),
            at: self.clock.wall(),
        };
        Ok(self.store.commit(entry).await.map(drop)?)
    }

    /// Asks the tickets, then the connector, then our own records.
    pub fn gate(self: &Arc<Self>, ledger: Arc<StoreLedger>) -> Arc<dyn PublishGate> {
        Arc::new(Gate { governed: self.clone(), ledger })
    }
}

/// The settings of a request's connector; the defaults where it is gone, which `may_transfer` refuses.
pub(super) async fn connector_of(store: &Store, request: &RequestRecord) -> Result<ConnectorSettings> {
    let name = request.connector.parse().map_err(|_| refused(format!("{} is no name of a connector", request.connector)))?;
    Ok(settings::load::<ConnectorSettings>(store, &name).await?.unwrap_or_default())
}

fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorClass::TicketInvalid, why)
}

struct Gate {
    governed: Arc<Governed>,
    ledger: Arc<StoreLedger>,
}

#[async_trait]
impl PublishGate for Gate {
    async fn may_publish(&self, file: FileNumber, pin: &Pin, path: &RemotePath) -> transfer::Result<Verdict> {
        let asked = |error: Error| through_engine("ask the gate", error);
        let refused = |error: Error| Ok(Verdict::Refused(transfer::Error::new(error.class, "publish", path).because(error)));
        match self.governed.check(None).await {
            Ok(()) => {}
            // Approved when it began: an outage does not stop what is under way, unless that was agreed.
            Err(error) if error.class == ErrorClass::TicketUnavailable && self.governed.unreachable == WhenUnreachable::Go => {
                let transfer = &self.governed.request.transfer;
                tracing::warn!(%transfer, error = %error.message, "published without asking the tickets again");
                self.governed.enter_unasked(file, &error).await.map_err(asked)?;
            }
            Err(error) if matches!(error.class, ErrorClass::TicketInvalid | ErrorClass::TicketUnavailable) => return refused(error),
            Err(error) => return Err(asked(error)),
        }
        if let Some(hindrance) = self.governed.hindrance().await.map_err(asked)? {
            return refused(hindrance.error());
        }
        self.ledger.may_publish(file, pin, path).await
    }
}
