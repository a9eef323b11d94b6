//! What the use cases do together with the engine and the store, and processes that are killed.

mod journal;
mod killed;
mod killed_child;
mod vast;
