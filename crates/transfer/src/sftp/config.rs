//! Stand-in until the SSH side is merged, which replaces this file: what a connection needs to know.

use std::path::PathBuf;
use std::time::Duration;

use model::Endpoint;

#[derive(Debug, Clone)]
pub struct SftpConfig {
    pub endpoint: Endpoint,
    pub connect_timeout: Duration,
    pub stall_timeout: Duration,
    pub key_file: PathBuf,
    /// `SHA256:…` of the one host key that is trusted.
    pub host_key: String,
}
