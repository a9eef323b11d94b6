//! SFTP version 3 over SSH: our own small client. `connect` proves the server and logs in, `session` speaks over one
//! channel, `wire` knows the packets, `connection` and `writer` answer the port of the engine.

mod ahead;
mod auth;
mod config;
mod connect;
mod connection;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod jump;
mod keys;
mod known_hosts;
mod link;
mod probe;
mod session;
mod ssh_config;
mod trust;
mod way;
mod wire;
mod writer;

pub use config::{AddressFamily, Algorithms, Identity, InlineKey, Prompt, Secret, SftpConfig, SftpOverrides, resolve};
pub use connect::{ClientHandler, Opened, open_session};
pub use connection::{SftpConnection, SftpConnector};
pub use error::StatusError;
pub use jump::check_jump;
pub use keys::public_key_line;
pub use ssh_config::{Asked, HostSettings, lookup};
pub use trust::{Expected, Refusal, RefusalReason};
pub use way::Socket;
pub use writer::SftpWriter;
