//! Tests of this crate through its public face, and against real servers on loopback.

mod contract;
mod engine;
mod harness;
mod s3;
mod servers;
mod sftp;
