//! The crate against real servers on loopback.

mod sftp;
