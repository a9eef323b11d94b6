//! Tests of this crate through its public face.

mod contract;
mod s3;
