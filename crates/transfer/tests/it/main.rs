//! Tests of this crate through its public face, and against real servers on loopback.

mod addresses;
mod contract;
mod corruption;
mod engine;
mod engine_on_ftp;
mod engine_on_sftp;
mod failing;
mod faults;
mod faults_ftp;
mod faults_source;
mod ftp;
mod fuzzing;
mod harness;
mod hostile_ftp;
mod hostile_sftp;
mod model;
mod roads;
mod s3;
mod semantics;
mod sent_again;
mod servers;
mod sftp;
mod streams;
mod tapped;
