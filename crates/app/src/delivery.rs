//! From the facts of a delivery to its signed receipt and its record.

use jiff::Timestamp;
use model::receipt::{Published, ReceiptDestination, ReceiptSource, SigningKey, Verification};
use model::{Endpoint, ErrorClass, FileNumber, FileState, Receipt, RemotePath};
use transfer::Pin;
use transfer::port::Delivery;

use crate::error::{Error, Result};
use crate::transfers::Held;

/// What every receipt of one transfer has in common.
#[derive(Debug, Clone)]
pub struct Letterhead {
    pub held: Held,
    pub endpoint: Endpoint,
    pub store: String,
    pub bucket: String,
    pub program: String,
    pub key: std::sync::Arc<SigningKey>,
}

impl Letterhead {
    /// Store and bucket as delivery records name them.
    pub fn source(&self) -> String {
        source_name(&self.store, &self.bucket)
    }

    /// The signed line.
    pub fn receipt(
        &self,
        kind: &str,
        number: FileNumber,
        path: &RemotePath,
        state: FileState,
        delivery: &Delivery,
        version: Option<String>,
        now: Timestamp,
    ) -> Result<(Receipt, String)> {
        let pin = &delivery.pin;
        let endpoint = &self.endpoint;
        let receipt = Receipt {
            v: 1,
            kind: kind.to_owned(),
            transfer_id: self.held.record.id.clone(),
            run: self.held.record.run,
            file: number,
            status: state,
            source: ReceiptSource {
                store: self.store.clone(),
                bucket: self.bucket.clone(),
                key: pin.key.clone(),
                version: pin.version.clone().or(version),
                etag: pin.etag.clone(),
                last_modified: pin.modified,
            },
            destination: ReceiptDestination {
                protocol: endpoint.protocol,
                host: endpoint.host.clone(),
                port: endpoint.port.unwrap_or(endpoint.protocol.default_port()),
                user: endpoint.user.clone(),
                path: path.clone(),
                host_key: delivery.identity.host_key.clone(),
                server: delivery.identity.software.as_deref().map(model::escape_name),
            },
            size: pin.size,
            crc64nvme: delivery.crc64nvme.to_string(),
            sha256: delivery.sha256.clone(),
            md5: delivery.md5.clone(),
            verification: Verification {
                grade: delivery.grade,
                algorithm: delivery.algorithm.clone(),
                value: delivery.value.clone(),
                bytes_compared: delivery.proof.bytes,
                blocks: delivery.proof.blocks,
            },
            published: Published { mode: delivery.mode, clobber: delivery.clobber, synced: delivery.synced },
            bytes_sent: delivery.bytes_sent,
            bytes_resumed: delivery.bytes_resumed,
            attempts: delivery.attempts,
            epochs: self.held.lease.epoch,
            connections: delivery.connections,
            started_at: delivery.started_at,
            finished_at: now,
            notes: delivery.notes.clone(),
            program: self.program.clone(),
            signed_by: String::new(),
        };
        let line = self.key.sign(&receipt).map_err(|e| Error::new(ErrorClass::Internal, format!("the receipt cannot be signed: {e}")))?;
        Ok((receipt, line))
    }

    pub fn record(
        &self,
        destination: &str,
        path: &RemotePath,
        state: FileState,
        delivery: &Delivery,
        version: Option<String>,
        now: Timestamp,
    ) -> store::Delivery {
        let pin = &delivery.pin;
        store::Delivery {
            destination: destination.to_owned(),
            path: path.clone(),
            source: self.source(),
            key: pin.key.clone(),
            version: pin.version.clone().or(version),
            etag: pin.etag.clone(),
            size: pin.size,
            modified: pin.modified,
            sha256: delivery.sha256.clone(),
            crc64nvme: Some(delivery.crc64nvme.to_string()),
            published_at: now,
            transfer: self.held.record.id.clone(),
            collected: state == FileState::Collected,
        }
    }
}

pub fn source_name(store: &str, bucket: &str) -> String {
    format!("{store}:{bucket}")
}

/// Whether a recorded delivery sent exactly the version that `pin` names.
pub fn is_version_of(delivery: &store::Delivery, pin: &Pin) -> bool {
    let versions_agree = match (&delivery.version, &pin.version) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    let same_time = delivery.etag.is_some() || delivery.modified == pin.modified;
    delivery.size == pin.size && delivery.etag == pin.etag && versions_agree && same_time
}
