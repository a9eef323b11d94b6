//! Random mutations of sessions, slots, messages and executions against maps that say what should have happened.

use std::collections::{BTreeMap, BTreeSet};

use model::ExecutionStatus;
use proptest::prelude::*;
use store::{Batch, Delivering, Mutation, OutboxState, SaveStep, SendFailure, Store};

use crate::executions::{create, record, step as execution_step};
use crate::outbox::{key, message};
use crate::sessions::{consume, mint};
use crate::{at, id};

#[derive(Debug, Clone)]
enum Step {
    Mint(u8, i64),
    Consume(u8, u8, i64),
    Delete(u8),
    Take(u8),
    Release(u8),
    Add(u8),
    Claim(u8, i64),
    Sent(u8),
    Failed(u8, u32, u8),
    Lapse(i64),
    Retry(u8),
    Drop(u8),
    Create(u8),
    Save(u8, u64, bool),
    DeleteExecution(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0..3u8;
    let now = || 0..40i64;
    prop_oneof![
        2 => (n(), now()).prop_map(|(n, now)| Step::Mint(n, now)),
        3 => (n(), n(), now()).prop_map(|(n, by, now)| Step::Consume(n, by, now)),
        1 => n().prop_map(Step::Delete),
        3 => n().prop_map(Step::Take),
        2 => n().prop_map(Step::Release),
        4 => (0..6u8).prop_map(Step::Add),
        6 => (0..6u8, now()).prop_map(|(n, now)| Step::Claim(n, now)),
        3 => (0..6u8).prop_map(Step::Sent),
        4 => (0..6u8, 0..3u32, 0..3u8).prop_map(|(n, attempt, how)| Step::Failed(n, attempt, how)),
        1 => now().prop_map(Step::Lapse),
        1 => (0..6u8).prop_map(Step::Retry),
        1 => (0..6u8).prop_map(Step::Drop),
        2 => n().prop_map(Step::Create),
        4 => (n(), 0..4u64, any::<bool>()).prop_map(|(n, steps, end)| Step::Save(n, 2 + steps * 2, end)),
        1 => n().prop_map(Step::DeleteExecution),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Message {
    place: u64,
    state: OutboxState,
    attempts: u32,
    next_at: i64,
    until: i64,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct World {
    /// Minted at, used by.
    sessions: BTreeMap<u8, (i64, Option<u8>)>,
    slots: BTreeSet<u8>,
    places: u64,
    messages: BTreeMap<u8, Message>,
    /// Last event, ended.
    executions: BTreeMap<u8, (u64, bool)>,
}

const SLOTS: usize = 2;

/// Even ones go to one subject, odd ones to another; the first two are chat.
fn same_subject(a: u8, b: u8) -> bool {
    a % 2 == b % 2
}

fn delivering(n: u8) -> Delivering {
    if n < 2 { Delivering::AtMostOnce } else { Delivering::AtLeastOnce }
}

fn holds(state: OutboxState) -> bool {
    !matches!(state, OutboxState::Sent | OutboxState::Unconfirmed)
}

fn expect(world: &mut World, step: &Step) -> bool {
    match *step {
        Step::Mint(n, now) => world.sessions.insert(n, (now, None)).is_none(),
        Step::Consume(n, by, now) => {
            let Some((minted, used)) = world.sessions.get_mut(&n) else { return false };
            let passes = *minted <= now && now < *minted + 10 && used.is_none_or(|used| used == by);
            if passes {
                *used = Some(by);
            }
            passes
        }
        Step::Delete(n) => {
            world.sessions.remove(&n);
            true
        }
        Step::Take(n) => {
            let fits = world.slots.contains(&n) || world.slots.len() < SLOTS;
            if fits {
                world.slots.insert(n);
            }
            fits
        }
        Step::Release(n) => {
            world.slots.remove(&n);
            true
        }
        Step::Create(n) => {
            let new = !world.executions.contains_key(&n);
            world.executions.entry(n).or_insert((2, false));
            new
        }
        Step::Save(n, expected, end) => match world.executions.get_mut(&n) {
            Some(execution) if execution.0 == expected => {
                *execution = (expected + 2, end);
                true
            }
            _ => false,
        },
        Step::DeleteExecution(n) => {
            let ended = world.executions.get(&n).is_some_and(|(_, ended)| *ended);
            if ended {
                world.executions.remove(&n);
            }
            ended
        }
        _ => expect_message(world, step),
    }
}

fn expect_message(world: &mut World, step: &Step) -> bool {
    match *step {
        Step::Add(n) => {
            if !world.messages.contains_key(&n) {
                world.places += 1;
                let (place, state) = (world.places, OutboxState::Waiting);
                world.messages.insert(n, Message { place, state, attempts: 0, next_at: 0, until: 0 });
            }
            return true;
        }
        Step::Lapse(now) => {
            for (n, message) in
                world.messages.iter_mut().filter(|(_, message)| message.state == OutboxState::Claimed && message.until <= now)
            {
                match delivering(*n) {
                    Delivering::AtLeastOnce => (message.state, message.next_at) = (OutboxState::Waiting, now),
                    Delivering::AtMostOnce => message.state = OutboxState::Unconfirmed,
                }
            }
            return true;
        }
        _ => {}
    }
    let (Step::Claim(n, _) | Step::Sent(n) | Step::Failed(n, ..) | Step::Retry(n) | Step::Drop(n)) = *step else {
        unreachable!("{step:?}")
    };
    let Some(present) = world.messages.get(&n).cloned() else { return false };
    let held =
        world.messages.iter().any(|(other, message)| same_subject(*other, n) && message.place < present.place && holds(message.state));
    let next = match *step {
        Step::Claim(_, now) if present.state == OutboxState::Waiting && present.next_at <= now && !held => {
            Message { state: OutboxState::Claimed, attempts: present.attempts + 1, until: now + 10, ..present }
        }
        Step::Sent(_) if present.attempts > 0 => Message { state: OutboxState::Sent, ..present },
        Step::Failed(n, attempt, how) if present.state == OutboxState::Claimed && present.attempts == attempt => match how {
            0 => Message { state: OutboxState::Waiting, next_at: 20, ..present },
            1 => Message { state: OutboxState::Refused, ..present },
            _ if delivering(n) == Delivering::AtMostOnce => Message { state: OutboxState::Unconfirmed, ..present },
            _ => return false,
        },
        Step::Retry(_) if matches!(present.state, OutboxState::Refused | OutboxState::Unconfirmed) => {
            Message { state: OutboxState::Waiting, next_at: 5, ..present }
        }
        Step::Drop(_) if present.state != OutboxState::Claimed => {
            world.messages.remove(&n);
            return true;
        }
        _ => return false,
    };
    world.messages.insert(n, next);
    true
}

fn mutation(step: &Step) -> Mutation {
    let connector = || "partner".to_owned();
    let of = |n: u8| key(&n.to_string());
    match *step {
        Step::Mint(n, now) => mint(&n.to_string(), now),
        Step::Consume(n, by, now) => consume(&n.to_string(), &by.to_string(), "spec", at(now)),
        Step::Delete(n) => Mutation::DeleteSession { token_hash: n.to_string() },
        Step::Take(n) => Mutation::TakeSlot { connector: connector(), holder: id(n), limit: SLOTS as u32, at: at(0) },
        Step::Release(n) => Mutation::ReleaseSlot { connector: connector(), holder: id(n) },
        Step::Add(n) => Mutation::AddOutbox(Box::new(message(&n.to_string(), &(n % 2).to_string(), delivering(n)))),
        Step::Claim(n, now) => Mutation::ClaimOutbox { key: of(n), by: "p".into(), now: at(now), until: at(now + 10) },
        Step::Sent(n) => Mutation::MarkSent { key: of(n), at: at(1) },
        Step::Failed(n, attempt, how) => {
            let how = [SendFailure::Again { next_at: at(20) }, SendFailure::Refused, SendFailure::Unconfirmed][usize::from(how)];
            Mutation::MarkFailed { key: of(n), attempt, how, error: "x".into(), at: at(1) }
        }
        Step::Lapse(now) => Mutation::LapseClaims { now: at(now), alone: None },
        Step::Retry(n) => Mutation::RetryOutbox { key: of(n), at: at(5) },
        Step::Drop(n) => Mutation::DropOutbox { key: of(n), at: at(0) },
        Step::Create(n) => create(n, 1),
        Step::Save(n, expected, end) => {
            let status = if end { ExecutionStatus::Failed } else { ExecutionStatus::Running };
            Mutation::SaveStep(Box::new(SaveStep { ..execution_step(n, 1, expected, status) }))
        }
        Step::DeleteExecution(n) => Mutation::DeleteExecution { name: record(n, 1).name },
    }
}

async fn compare(store: &Store, world: &World) {
    for n in 0..3 {
        let minted = world.sessions.get(&n);
        let read = store.session(&n.to_string(), at(minted.map_or(0, |(minted, _)| minted + 9))).await.unwrap();
        let expected = minted.map(|(_, used)| used.map(|used| used.to_string()));
        assert_eq!(read.map(|session| session.consumed_by), expected);
        let execution = store.execution(&record(n, 1).name).await.unwrap();
        let read = execution.map(|record| (record.last_event, record.finished_at.is_some()));
        assert_eq!(read, world.executions.get(&n).copied());
        let events = store.history(&record(n, 1).name, 0, 0).await.unwrap().len() as u64;
        assert_eq!(events, world.executions.get(&n).map_or(0, |(last, _)| *last));
    }
    let open = store.open_executions(0, 0).await.unwrap().len();
    assert_eq!(open, world.executions.values().filter(|(_, ended)| !ended).count());
    let holders: BTreeSet<_> = store.slots(Some("partner")).await.unwrap().into_iter().map(|(_, holder)| holder).collect();
    assert_eq!(holders, world.slots.iter().map(|n| id(*n)).collect());
    let read = store.outbox(&[], None, 0, 0).await.unwrap();
    let read: BTreeMap<_, _> = read.into_iter().map(|(_, one)| (one.key.purpose, (one.state, one.attempts, one.next_at))).collect();
    let told = world.messages.iter().map(|(n, one)| (n.to_string(), (one.state, one.attempts, at(one.next_at)))).collect();
    assert_eq!(read, told);
    let now = 15;
    let due: BTreeSet<_> = store.due_outbox(at(now), 0).await.unwrap().into_iter().map(|one| one.key.purpose).collect();
    let can_be_claimed = |n: &u8| expect(&mut world.clone(), &Step::Claim(*n, now));
    assert_eq!(due, (0..6).filter(can_be_claimed).map(|n| n.to_string()).collect());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_maps_would(batches in prop::collection::vec(prop::collection::vec(step(), 1..3), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = Store::open_in_memory().await.unwrap();
            let mut world = World::default();
            for steps in batches {
                let mut after = world.clone();
                let fits = steps.iter().all(|step| expect(&mut after, step));
                let mut batch = Batch::new();
                batch.extend(steps.iter().map(mutation));
                let answer = store.commit(batch).await;
                assert_eq!(answer.is_ok(), fits, "{steps:?} on {world:?}: {answer:?}");
                if fits {
                    world = after;
                }
                compare(&store, &world).await;
            }
        });
    }
}
