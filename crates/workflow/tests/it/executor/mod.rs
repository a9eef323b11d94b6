//! The executor over a journal that dies, fails and forgets its answers, with tasks from a script and a clock that tests
//! turn: whatever happens, an execution ends as the interpreter alone would end it, and no effect is written twice.

mod answers;
mod clocks;
mod kills;
mod random;
mod starts;
mod world;
