//! SFTP over SSH.

mod auth;
mod config;
mod connect;
mod keys;
mod known_hosts;
mod ssh_config;
mod trust;

pub use config::{AddressFamily, Algorithms, Identity, Prompt, Secret, SftpConfig, SftpOverrides, resolve};
pub use connect::{ClientHandler, Opened, Socket, open_session};
pub use ssh_config::{HostSettings, lookup};
pub use trust::{Expected, Refusal, RefusalReason};
