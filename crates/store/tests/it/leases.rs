//! Leases: one holder, fenced by epochs.

use store::{Batch, Conflict, ErrorKind, Lease, LeaseClaim, LeaseGuard, Mutation, Store};

use crate::{at, id, transfer};

fn acquire(holder: &str, now: i64, take_over: Option<(&str, u32)>) -> Mutation {
    let claim = LeaseClaim {
        resource: "transfer/1".into(),
        holder: holder.into(),
        pid: 7,
        process_start: "123".into(),
        host: "boot".into(),
        expires_at: at(now + 60),
    };
    Mutation::AcquireLease { claim, now: at(now), take_over: take_over.map(|(holder, epoch)| (holder.to_owned(), epoch)) }
}

async fn acquired(store: &Store, mutation: Mutation) -> Lease {
    store.commit(mutation).await.unwrap().leases.pop().unwrap()
}

// Mutations: a take-over names no epoch; the same holder takes its own lease; nobody looks at the guards of a batch (`apply`), or at
// their epochs; epochs do not grow; any holder renews.
#[tokio::test]
async fn a_holder_that_was_taken_over_can_write_nothing_more() {
    let store = Store::open_in_memory().await.unwrap();
    let first = acquired(&store, acquire("a", 0, None)).await;
    assert_eq!(first.epoch, 1);
    for holder in ["a", "b"] {
        let error = store.commit(acquire(holder, 1, None)).await.unwrap_err();
        assert_eq!(error.conflict(), Some(&Conflict::Lease(first.clone())));
    }
    assert_eq!(store.commit(acquire("b", 1, Some(("a", 9)))).await.unwrap_err().kind, ErrorKind::Conflict);
    let guarded = |lease: &Lease, n| Batch::new().guarded_by(LeaseGuard::from(lease)).push(Mutation::CreateTransfer(transfer(n)));
    store.commit(guarded(&first, 1)).await.unwrap();

    let second = acquired(&store, acquire("b", 2, Some(("a", 1)))).await;
    assert_eq!(second.epoch, 2);
    let error = store.commit(guarded(&first, 2)).await.unwrap_err();
    assert_eq!((error.kind, error.class()), (ErrorKind::LeaseLost, model::ErrorClass::LeaseLost));
    assert_eq!(error.to_string(), "could not keep the lease on transfer/1");
    assert_eq!(store.transfer(&id(2)).await.unwrap(), None);
    store.commit(guarded(&second, 2)).await.unwrap();
    let renew = |lease: &Lease| Mutation::RenewLease { guard: lease.into(), expires_at: at(500) };
    assert_eq!(store.commit(renew(&first)).await.unwrap_err().kind, ErrorKind::LeaseLost);
    store.commit(renew(&second)).await.unwrap();
    assert_eq!(store.leases().await.unwrap(), vec![Lease { expires_at: at(500), ..second }]);
}

// Mutations: a lease that is released is forgotten with its epoch, or released by any epoch; one that is over is not free.
#[tokio::test]
async fn epochs_never_go_back_and_an_expired_lease_is_free_to_take() {
    let store = Store::open_in_memory().await.unwrap();
    let first = acquired(&store, acquire("a", 0, None)).await;
    store.commit(Mutation::ReleaseLease { guard: (&first).into() }).await.unwrap();
    assert_eq!(store.lease("transfer/1").await.unwrap(), None);
    let again = acquired(&store, acquire("a", 1, None)).await;
    assert_eq!(again.epoch, 2);
    let release = Mutation::ReleaseLease { guard: (&first).into() };
    assert_eq!(store.commit(release).await.unwrap_err().kind, ErrorKind::LeaseLost, "the epoch of the first is over");
    let late = acquired(&store, acquire("b", 61, None)).await;
    assert_eq!((late.epoch, late.holder.as_str()), (3, "b"));
    assert_eq!(store.lease("transfer/1").await.unwrap(), Some(late));
}
