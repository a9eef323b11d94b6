//! The built-in ticket register: a ticket system for machines that have no other, kept in the store.

use async_trait::async_trait;
use integrations::{Fault, Ticket, TicketChange, TicketSystem};
use jiff::Timestamp;
use store::{Batch, Mutation, Store, TicketNote};

/// Before the number, so that nobody takes it for one of another system.
const PREFIX: &str = "FFT";

/// How people write the number of a ticket.
pub fn shown(number: u64) -> String {
    format!("{PREFIX}{number:07}")
}

/// The number that people wrote.
pub fn number(text: &str) -> Option<u64> {
    text.strip_prefix(PREFIX)?.parse().ok()
}

#[derive(Debug, Clone)]
pub struct Register {
    store: Store,
}

impl Register {
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

fn fault(error: store::Error) -> Fault {
    let text = transfer::error::chain(&error);
    match error.kind {
        store::ErrorKind::NotFound | store::ErrorKind::Conflict | store::ErrorKind::Invalid => Fault::Refused(text),
        _ => Fault::Unavailable(text),
    }
}

#[async_trait]
impl TicketSystem for Register {
    async fn read(&self, text: &str) -> Result<Option<Ticket>, Fault> {
        let Some(number) = number(text) else { return Ok(None) };
        let found = self.store.ticket(number).await.map_err(fault)?;
        Ok(found.map(|ticket| Ticket {
            number: shown(ticket.number),
            kind: ticket.kind,
            state: ticket.state,
            transfer: ticket.transfer,
            spec_hash: ticket.spec_hash,
            opened_by: ticket.opened_by,
            group: ticket.group,
            opened_at: ticket.opened_at,
        }))
    }

    async fn write(&self, text: &str, key: &str, change: &TicketChange) -> Result<(), Fault> {
        let Some(number) = number(text) else { return Err(Fault::Refused(format!("{text} is no ticket of this register"))) };
        let now = Timestamp::now();
        let mut batch = Batch::new();
        if let Some(state) = change.state {
            batch = batch.push(Mutation::SetTicketState { number, state, expect: None, at: now });
        }
        if let Some(text) = &change.note {
            let note = TicketNote { key: key.to_owned(), at: now, author: "fileferry".to_owned(), text: text.clone() };
            batch = batch.push(Mutation::AddNote { number, note });
        }
        self.store.commit(batch).await.map(drop).map_err(fault)
    }
}
