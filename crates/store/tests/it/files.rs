//! Files, their checkpoints and deliveries.

use model::{ErrorClass, FileNumber, FileState};
use store::{Batch, Conflict, DestinationRecord, ErrorKind, Failure, FileQuery, Mutation, Parked, Store};

use crate::{add, at, delivery, file, finish, id, key, path, transfer};

async fn with_files(count: u32) -> Store {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(Batch::new().push(Mutation::CreateTransfer(transfer(1))).push(add(1, 0..count))).await.unwrap();
    store
}

fn checkpoint(attempt: u32, epoch: u32, bytes_done: u64) -> Mutation {
    let (transfer, checkpoint) = (id(1), format!("{attempt}.{epoch}.{bytes_done}"));
    Mutation::SaveCheckpoint { transfer, number: FileNumber(0), attempt, epoch, checkpoint, bytes_done, at: at(2) }
}

#[tokio::test]
async fn two_keys_for_one_path_are_named_both() {
    let store = with_files(3).await;
    let mut second = file(1, 10);
    second.path = path("/in/2.csv");
    let error = store.commit(Mutation::AddFiles { transfer: id(1), files: vec![file(1, 9), second.clone()] }).await.unwrap_err();
    let expected = Conflict::Path { path: path("/in/2.csv"), first: key("out/2.csv"), second: key("out/10.csv") };
    assert_eq!(error.conflict(), Some(&expected));
    assert_eq!(store.file(&id(1), FileNumber(9)).await.unwrap(), None);

    second.path = path("/in/9.csv");
    let error = store.commit(Mutation::AddFiles { transfer: id(1), files: vec![file(1, 9), second] }).await.unwrap_err();
    assert!(matches!(error.conflict(), Some(Conflict::Path { first, .. }) if *first == key("out/9.csv")), "within one mutation too");
    let mut again = file(1, 11);
    again.key = key("out/1.csv");
    let error = store.commit(Mutation::AddFiles { transfer: id(1), files: vec![again] }).await.unwrap_err();
    assert!(matches!(error.conflict(), Some(Conflict::Key { first, .. }) if *first == path("/in/1.csv")));
}

#[tokio::test]
async fn a_writer_of_an_earlier_attempt_cannot_save_its_checkpoint() {
    let store = with_files(1).await;
    store.commit(checkpoint(1, 1, 10)).await.unwrap();
    store.commit(checkpoint(1, 2, 20)).await.unwrap();
    let error = store.commit(checkpoint(1, 1, 90)).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&Conflict::Attempt { attempt: 1, epoch: 2 }));
    let begin = |attempt, epoch| Mutation::BeginAttempt { transfer: id(1), number: FileNumber(0), attempt, epoch, at: at(3) };
    store.commit(begin(1, 3)).await.unwrap();
    assert_eq!(store.file(&id(1), FileNumber(0)).await.unwrap().unwrap().bytes_done, 20, "a new epoch goes on");
    store.commit(begin(2, 1)).await.unwrap();
    let begun = store.file(&id(1), FileNumber(0)).await.unwrap().unwrap();
    assert_eq!((begun.checkpoint, begun.bytes_done, begun.state), (None, 0, FileState::InProgress), "a new attempt begins anew");
    assert_eq!(store.commit(begin(1, 9)).await.unwrap_err().kind, ErrorKind::Conflict);
}

#[tokio::test]
async fn an_end_clears_what_resuming_needs_and_stays_the_end() {
    let store = with_files(2).await;
    let number = FileNumber(0);
    let intent = Mutation::SaveIntent { transfer: id(1), number, intent: Some("rename".into()), at: at(2) };
    let error = Some(Failure { class: ErrorClass::NetworkReset, text: "cut".into() });
    let failed = Mutation::SetFileState { transfer: id(1), number, state: FileState::PublishPending, error, at: at(2) };
    store.commit(Batch::new().push(checkpoint(1, 1, 50)).push(intent.clone()).push(failed)).await.unwrap();
    let kept = store.file_by_key(&id(1), &key("out/0.csv")).await.unwrap().unwrap();
    assert_eq!((kept.intent.as_deref(), kept.error_class), (Some("rename"), Some(ErrorClass::NetworkReset)));

    store.commit(finish(1, 0)).await.unwrap();
    let done = store.file(&id(1), number).await.unwrap().unwrap();
    let expected = store::FileRecord {
        state: FileState::Delivered,
        bytes_done: 100,
        bytes_sent: 100,
        receipt: Some("{\"file\":0}".into()),
        updated_at: at(1),
        ..file(1, 0)
    };
    assert_eq!(done, expected);
    store.commit(finish(1, 0)).await.expect("saying it again changes nothing");
    assert_eq!(store.commit(checkpoint(1, 1, 60)).await.unwrap_err().conflict(), Some(&Conflict::FileState(FileState::Delivered)));
    assert_eq!(store.commit(intent).await.unwrap_err().kind, ErrorKind::Conflict);
    let pin = Mutation::ReplacePin { transfer: id(1), number: FileNumber(1), pin: "p2".into(), size: 7, at: at(4) };
    store.commit(pin).await.unwrap();
    let replaced = store.file(&id(1), FileNumber(1)).await.unwrap().unwrap();
    assert_eq!((replaced.pin.as_str(), replaced.size, replaced.attempt), ("p2", 7, 2));
    store.commit(Mutation::RemoveFiles { transfer: id(1), numbers: vec![FileNumber(0), FileNumber(1)] }).await.unwrap();
    let left = store.files(&id(1), FileQuery::default()).await.unwrap();
    assert_eq!(left.iter().map(|file| file.number.0).collect::<Vec<_>>(), [0], "what was delivered stays in the manifest");
    assert_eq!(store.receipts(&id(1), None, 0).await.unwrap(), [(FileNumber(0), "{\"file\":0}".to_owned())]);
    // The source has a newer version of what was delivered: it waits again, and the old receipt is not lost meanwhile.
    let pin = Mutation::ReplacePin { transfer: id(1), number, pin: "p3".into(), size: 8, at: at(5) };
    store.commit(pin).await.unwrap();
    let again = store.file(&id(1), number).await.unwrap().unwrap();
    assert_eq!((again.state, again.size, again.receipt.as_deref()), (FileState::Pending, 8, Some("{\"file\":0}")));
}

#[tokio::test]
async fn what_goes_with_the_files_is_listed_apart_and_not_counted() {
    let store = with_files(3).await;
    let companion = store::FileRecord { number: model::contract::FIRST_COMPANION, ..file(1, 7) };
    store.commit(Mutation::AddFiles { transfer: id(1), files: vec![companion] }).await.unwrap();
    let counts = store.counts(&id(1)).await.unwrap();
    assert_eq!(counts.iter().map(|c| c.files).sum::<u64>(), 3);
    for (part, expected) in [(store::Part::Everything, 4), (store::Part::Files, 3), (store::Part::Companions, 1)] {
        let listed = store.files(&id(1), FileQuery { part, ..FileQuery::default() }).await.unwrap();
        assert_eq!(listed.len(), expected, "{part:?}");
        let open = store.files(&id(1), FileQuery { part, states: Some(&[FileState::Pending]), ..FileQuery::default() }).await.unwrap();
        assert_eq!(open.len(), expected, "{part:?}");
    }
}

#[tokio::test]
async fn the_newest_delivery_stays_whatever_the_order_of_recording() {
    let store = with_files(3).await;
    let record = |number, file, second| {
        let mut mutation = finish(1, number);
        let Mutation::FinishFile { delivery: slot, .. } = &mut mutation else { unreachable!() };
        *slot = Some(delivery(1, file, second));
        mutation
    };
    store.commit(Batch::new().push(record(0, 5, 20)).push(record(1, 5, 10)).push(record(2, 6, 1))).await.unwrap();
    let newest = delivery(1, 5, 20);
    assert_eq!(store.delivery(&newest.destination, &newest.path).await.unwrap(), Some(newest.clone()));
    let collected = |n| Mutation::MarkCollected { destination: newest.destination.clone(), path: newest.path.clone(), transfer: id(n) };
    assert_eq!(store.commit(collected(2)).await.unwrap_err().kind, ErrorKind::NotFound);
    store.commit(collected(1)).await.unwrap();
    let paths = [path("/in/6.csv"), path("/in/none"), path("/in/5.csv")];
    let found = store.deliveries(&newest.destination, &paths).await.unwrap();
    assert_eq!(found.iter().map(|delivery| delivery.collected).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn a_destination_keeps_parking_breaker_and_profile_apart() {
    let store = Store::open_in_memory().await.unwrap();
    let destination = || "sftp://u@partner".to_owned();
    let failure = Mutation::BreakerFailure { destination: destination(), threshold: 2, open_until: at(60) };
    let probe = |now, until| Mutation::BreakerProbe { destination: destination(), now: at(now), open_until: at(until) };
    store.commit(failure.clone()).await.unwrap();
    assert_eq!(store.destination(&destination()).await.unwrap().unwrap().breaker_open_until, None);
    store.commit(failure).await.unwrap();
    assert_eq!(store.commit(probe(59, 120)).await.unwrap_err().conflict(), Some(&Conflict::Breaker));
    store.commit(probe(60, 120)).await.unwrap();
    assert_eq!(store.commit(probe(61, 130)).await.unwrap_err().kind, ErrorKind::Conflict, "one probe at a time");
    // The clock is set back an hour: nobody waits for what was meant under the other one.
    store.commit(probe(-3_600, -3_540)).await.unwrap();
    let parked = Parked { credential: "SHA256:x".into(), reason: "refused".into(), at: at(1) };
    store.commit(Mutation::Park { destination: destination(), parked: parked.clone() }).await.unwrap();
    store.commit(Mutation::SaveProfile { destination: destination(), profile: Some("{}".into()) }).await.unwrap();
    let expected = DestinationRecord {
        key: destination(),
        parked: Some(parked),
        breaker_failures: 2,
        breaker_open_until: Some(at(-3_540)),
        profile: Some("{}".into()),
    };
    assert_eq!(store.destination(&destination()).await.unwrap(), Some(expected.clone()));
    let unpark = Mutation::Unpark { destination: destination() };
    store.commit(Batch::new().push(unpark).push(Mutation::BreakerSuccess { destination: destination() })).await.unwrap();
    let healed = DestinationRecord { parked: None, breaker_failures: 0, breaker_open_until: None, ..expected };
    assert_eq!(store.destination(&destination()).await.unwrap(), Some(healed));
}
