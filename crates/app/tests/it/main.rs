//! What the use cases do together with the engine and the store.

mod vast;
