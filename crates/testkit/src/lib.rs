//! Real servers on free ports of the loopback, and servers that misbehave on demand. For tests and the demonstration only.

pub mod asyncssh;
pub mod process;
pub mod sftp;
pub mod sshd;
