//! What an approval is bound to, and how the parts of a governed transfer are named.

use aws_lc_rs::digest;
use model::TransferId;
use store::TransferRecord;

/// What tickets, session and grant are bound to: who wants what done by which connector and source. `spec` is the text on
/// record, for a spec written anew might read otherwise in another version of this program.
pub fn spec_hash(user: &str, connector: &str, source: &str, spec: &str) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in [user, connector, source, spec] {
        // With their lengths, so that nothing can move from one part into the next.
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    data_encoding::HEXLOWER.encode(hash.finish().as_ref())
}

/// The identity of a transfer that was asked for by a request, which no copy continues.
pub fn new_request_identity(id: &TransferId) -> String {
    format!("request:{id}")
}

/// Whether a transfer was asked of a service, which alone carries it out: under its approval, in its connector's window.
pub fn is_governed(transfer: &TransferRecord) -> bool {
    transfer.identity == new_request_identity(&transfer.id)
}

/// One execution for each run of a transfer.
pub fn execution_name(transfer: &TransferId, run: u32) -> String {
    format!("ff-{transfer}-{run}")
}
