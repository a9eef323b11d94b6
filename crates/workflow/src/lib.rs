//! Amazon States Language: definitions and their lint, and an interpreter that is a function of definition, state,
//! event and time. It has no clock, no I/O and no tasks of its own; `trial` drives it with mocks and a clock that jumps,
//! `executor` for good: with tasks that run, a journal that remembers, and time that passes.

mod chance;
mod cursor;
pub mod definition;
pub mod executor;
pub mod fault;
mod filter;
mod functions;
mod graph;
pub mod interpreter;
mod intrinsic;
mod path;
mod template;
pub mod trial;
mod value;

pub use chance::{Chance, Seeded};
pub use definition::{Finding, Machine, Refused, Severity, lint};
pub use fault::Fault;
pub use graph::mermaid;
pub use interpreter::{Command, Event, Execution, Frame, Head, HistoryEvent, Rejected, Start, Status, Step, TaskRequest, step};
pub use intrinsic::Call;
pub use path::{Path, PathError};
pub use template::{Expression, Template};

/// What may go in and out of a state, in bytes of JSON.
pub const MAX_DATA: usize = 262_144;

/// How deep arrays and objects may lie in each other. JSON readers give up at 128, and what is stored must be read again.
pub const MAX_DEPTH: usize = 100;

/// After so many events an execution ends with `States.Runtime`, as on AWS.
pub const MAX_HISTORY: u64 = 25_000;
