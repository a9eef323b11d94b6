//! Servers on free ports of the loopback, real ones and ones that misbehave on demand, and a proxy that breaks
//! connections. For tests and the demonstration only.

pub mod asyncssh;
pub mod certificates;
pub mod disk;
pub mod forward;
pub mod ftp;
pub mod ftp_sandbox;
pub mod fuzz;
pub mod machine;
pub mod moto;
pub mod pace;
pub mod process;
pub mod proxy;
pub mod s3;
pub mod sftp;
pub mod sshd;
