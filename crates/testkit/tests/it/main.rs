//! The test servers themselves: a fault that is not there would make every fault test pass.

mod cli;
mod faults;
mod logins;
mod raw;
mod real;
