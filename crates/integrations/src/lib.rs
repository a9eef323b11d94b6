//! Services beside the transfer that tell us something, or that we tell something. Each is a folder behind a small port;
//! none of them knows how bytes travel or where records are kept.

mod error;
pub mod notice;
pub mod object_event;
pub mod queue;
pub mod sqs;
pub mod tickets;

pub use error::{Error, Fault, Result, chain};
pub use notice::{FileNotifier, LogNotifier, Notifier};
pub use object_event::{NotUnderstood, Notice, Written};
pub use queue::{Message, Queue};
pub use tickets::{Ticket, TicketChange, TicketSystem};
