//! Files beyond 4 GiB without the memory or the disk for them.

use std::sync::Arc;

use model::{Grade, ObjectKey};
use testkit::s3::{Content, S3Server};
use transfer::memory::{MemoryDestination, VastDestination, VastSource};
use transfer::{Capabilities, Source};

use super::{config, source};
use crate::harness::Ferry;

const SIZE: u64 = (5 << 30) + 1;

// Mutation: an offset or a count of bytes is kept in 32 bits (`Sheet::range`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_five_gib_and_one_byte_arrives_byte_for_byte_past_the_limits_of_32_bits() {
    let content = VastSource::new("vast", SIZE);
    let capabilities = Capabilities { read: false, hashes: vec![], sync: false, ..MemoryDestination::everything() };
    let destination = VastDestination::new(&content, capabilities, &[]);
    let mut ferry = Ferry::new(Arc::new(content), Arc::new(destination.clone()), "/in");
    ferry.wishes.digests = model::DigestSet { sha256: false, md5: false };
    ferry.tuning.range_size = 4 << 20;
    ferry.run(&["vast"]).await.unwrap();
    let finished = ferry.records.kept(0).finished.unwrap_or_else(|| panic!("{:?}", ferry.records.kept(0).failed));
    let delivery = finished.delivery.unwrap();
    assert_eq!((delivery.pin.size, delivery.bytes_sent, delivery.grade), (SIZE, SIZE, Grade::Acknowledged));
    let count = destination.count();
    assert_eq!((count.accepted, count.again, count.wrong), (SIZE, 0, 0));
    assert!(destination.is_whole("/in/vast"));
}

// Mutation: a range's offset is kept in 32 bits (`reader::read`).
#[tokio::test]
async fn the_last_bytes_of_an_object_beyond_4_gib_are_read_where_they_are() {
    let server = S3Server::start().await;
    let content = Content::generated(9, SIZE);
    server.bucket("b").put("vast", content.clone());
    let source = source(config(&server)).await;
    let pin = source.pin(&ObjectKey::new("vast").unwrap(), None).await.unwrap();
    assert_eq!(pin.size, SIZE);
    for range in [SIZE - 1..SIZE, SIZE - 70_000..SIZE, (1 << 32) - 5..(1 << 32) + 5] {
        assert_eq!(source.read(&pin, range.clone()).await.unwrap(), content.read(range));
    }
}
