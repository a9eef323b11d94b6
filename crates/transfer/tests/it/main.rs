//! Tests of this crate through its public face.

mod contract;
mod engine;
mod harness;
mod s3;
