//! Use cases with a real store: the journal of executions, and processes that are killed.

mod journal;
mod killed;
mod killed_child;
