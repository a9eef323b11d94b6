//! The store from outside: what it promises about batches, leases, crashes, full disks and other processes.

mod audit;
mod backup;
mod commits;
mod contexts;
mod crash;
mod damage;
mod disk;
mod dynamodb;
mod executions;
mod files;
mod leases;
mod model_governed;
mod model_test;
mod open;
mod outbox;
mod outbox_kills;
mod requests;
mod sessions;
mod settings;

use jiff::Timestamp;
use model::{FileNumber, FileState, ObjectKey, RemotePath, TransferId, TransferState};
use store::{Delivery, FileRecord, Mutation, TransferRecord};

pub fn id(n: u8) -> TransferId {
    TransferId::from_random([n; 10])
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::new(1_700_000_000 + second, 123_456_789).unwrap()
}

pub fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

pub fn path(text: &str) -> RemotePath {
    RemotePath::from_user(text).unwrap()
}

pub fn transfer(n: u8) -> TransferRecord {
    TransferRecord {
        id: id(n),
        run: 1,
        identity: format!("identity-{n}"),
        source: "s3://bucket/out/".into(),
        destination: "sftp://partner/in/".into(),
        spec: "{}".into(),
        state: TransferState::Pending,
        error_class: None,
        error_text: None,
        files_total: 0,
        bytes_total: 0,
        listed: false,
        pid: 1,
        created_at: at(0),
        updated_at: at(0),
        finished_at: None,
    }
}

pub fn file(n: u8, number: u32) -> FileRecord {
    FileRecord {
        transfer: id(n),
        number: FileNumber(number),
        key: key(&format!("out/{number}.csv")),
        path: path(&format!("/in/{number}.csv")),
        size: 100,
        pin: "{\"etag\":\"e\"}".into(),
        state: FileState::Pending,
        attempt: 1,
        epoch: 1,
        checkpoint: None,
        intent: None,
        error_class: None,
        error_text: None,
        bytes_done: 0,
        bytes_sent: 0,
        receipt: None,
        original: None,
        updated_at: at(0),
    }
}

pub fn delivery(n: u8, number: u32, second: i64) -> Delivery {
    Delivery {
        destination: "sftp://u@partner:22".into(),
        path: path(&format!("/in/{number}.csv")),
        source: "s3/bucket".into(),
        key: key(&format!("out/{number}.csv")),
        version: Some("v1".into()),
        etag: Some("e".into()),
        size: 100,
        modified: Some(at(-5)),
        sha256: Some("ab".repeat(32)),
        crc64nvme: Some("0".repeat(16)),
        published_at: at(second),
        transfer: id(n),
        collected: false,
    }
}

pub fn finish(n: u8, number: u32) -> Mutation {
    Mutation::FinishFile {
        transfer: id(n),
        number: FileNumber(number),
        state: FileState::Delivered,
        receipt: Some(format!("{{\"file\":{number}}}")),
        bytes_sent: 100,
        at: at(1),
        delivery: Some(delivery(n, number, 1)),
    }
}

pub fn add(n: u8, numbers: std::ops::Range<u32>) -> Mutation {
    Mutation::AddFiles { transfer: id(n), files: numbers.map(|number| file(n, number)).collect() }
}
