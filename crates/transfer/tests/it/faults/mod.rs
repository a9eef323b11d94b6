//! Faults, and what must hold after each of them.

mod every_operation;
