//! The suite on the server in memory, with each ability missing in turn.

use std::sync::Arc;

use model::RemotePath;
use transfer::memory::MemoryDestination;
use transfer::{Capabilities, NoClobber};

use super::{SetUp, check};

pub fn set_ups() -> Vec<SetUp> {
    let all = MemoryDestination::everything;
    let sets: Vec<(&str, Capabilities)> = vec![
        ("memory", all()),
        ("memory-checked", Capabilities { no_clobber: NoClobber::Checked, atomic_replace: false, hashes: vec![], ..all() }),
        (
            "memory-stream",
            Capabilities {
                offset_writes: false,
                confirms_writes: false,
                continues: true,
                sync: false,
                no_clobber: NoClobber::Unsupported,
                multiplex: 1,
                set_mode: false,
                ..all()
            },
        ),
        (
            "memory-write-only",
            Capabilities { read: false, set_times: false, set_mode: false, free_space: false, hashes: vec![], max_write: 1000, ..all() },
        ),
    ];
    sets.into_iter()
        .map(|(name, capabilities)| {
            let directory = RemotePath::from_user("/in").expect("a valid path");
            SetUp::able(name, Arc::new(MemoryDestination::with_capabilities(capabilities)), directory, Box::new(()))
        })
        .collect()
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    check(set_ups()).await;
}
