//! The engine against a plain map: random files, wishes, faults, crashes and misfortunes on memory, and after each operation
//! a look at what stands under the final names. `PROPTEST_CASES=N` searches elsewhere each time; what failed once is kept in
//! `proptest-regressions/model.txt` and `courses.rs`, and tried first.

mod courses;
mod judge;
mod script;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::{Algorithm, Grade, IfExists, Publish, TempName, TransferId, Verify};
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed};
use transfer::memory::MemoryDestination;
use transfer::retry::Backoff;
use transfer::{Capabilities, NoClobber};

use crate::failing::Break;
use crate::harness::Ferry;
use judge::{Judge, Run};
use script::{Event, Script, ScriptedConnector, ScriptedSource};
use world::{Act, Asked, KEYS, World};

/// Files of more than this travel in ranges.
const RANGE: usize = 128 << 10;
/// Cases without `PROPTEST_CASES`, always the same ones, and the most that it can ask for: each costs some 13 ms.
const CASES: u32 = 600;
const MOST_CASES: u32 = 3_000;

#[derive(Debug, Clone)]
struct Server {
    streams: bool,
    continues: bool,
    read: bool,
    hashes: bool,
    syncs: bool,
    atomic_replace: bool,
    atomic_rename: bool,
    exact_names: bool,
}

impl Server {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            offset_writes: !self.streams,
            confirms_writes: !self.streams,
            continues: self.streams && self.continues,
            read: self.read,
            sync: self.syncs && !self.streams,
            no_clobber: match (self.streams, self.atomic_rename) {
                (true, _) => NoClobber::Unsupported,
                (false, true) => NoClobber::Atomic,
                (false, false) => NoClobber::Checked,
            },
            atomic_replace: self.atomic_replace,
            exact_names: self.exact_names,
            hashes: if self.hashes { vec![Algorithm::Sha256, Algorithm::Md5] } else { Vec::new() },
            multiplex: if self.streams { 1 } else { 16 },
            ..MemoryDestination::everything()
        }
    }
}

#[derive(Debug, Clone)]
struct Delivery {
    keys: [bool; 3],
    policy: IfExists,
    publish: Publish,
    verify: Verify,
    connections: Option<usize>,
    /// What happens to each process; after the last one comes one to which nothing happens.
    runs: Vec<Vec<(u64, Event)>>,
}

#[derive(Debug, Clone)]
enum Step {
    Deliver(Delivery),
    Act(Act),
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        3 => prop::sample::select(vec![0, 1, RANGE - 1, RANGE, RANGE + 1, 2 * RANGE - 1, 2 * RANGE, 2 * RANGE + 1, 4 * RANGE]),
        2 => 0..5 * RANGE,
        1 => 1..4096usize,
    ]
}

fn key() -> impl Strategy<Value = usize> {
    0..KEYS.len()
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (key(), size()).prop_map(|(key, size)| Act::Overwrite { key, size }),
        1 => key().prop_map(|key| Act::Unsource { key }),
        2 => key().prop_map(|key| Act::Take { key }),
        2 => (key(), size()).prop_map(|(key, size)| Act::Replace { key, size }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => prop::sample::select(Break::ALL.to_vec()).prop_map(Event::Break),
        4 => any::<bool>().prop_map(|after| Event::Kill { after }),
        2 => Just(Event::Flip),
        1 => Just(Event::Stop),
        2 => act().prop_map(Event::World),
        1 => Just(Event::World(Act::Disconnect)),
        1 => Just(Event::World(Act::Crash)),
        1 => (0..3 * RANGE as u64).prop_map(|room| Event::World(Act::Full { room })),
    ]
}

fn run() -> impl Strategy<Value = Vec<(u64, Event)>> {
    prop::collection::vec((prop_oneof![0..14u64, 0..50u64], event()), 0..4)
}

fn delivery() -> impl Strategy<Value = Delivery> {
    let policy = prop::sample::select(vec![IfExists::Fail, IfExists::Skip, IfExists::Update, IfExists::Replace, IfExists::ReplaceUnsafe]);
    let publish = prop_oneof![6 => Just(Publish::Rename), 1 => Just(Publish::StagingDir), 1 => Just(Publish::InPlace)];
    let grades = [Grade::Size, Grade::Acknowledged, Grade::Sampled, Grade::ReadBack, Grade::ServerHash].map(Verify::AtLeast);
    let verify = prop_oneof![3 => Just(Verify::Auto), 2 => Just(grades[3]), 3 => prop::sample::select(grades.to_vec())];
    let connections = prop_oneof![Just(None), (1..4usize).prop_map(Some)];
    (any::<[bool; 3]>(), policy, publish, verify, connections, prop::collection::vec(run(), 0..4))
        .prop_map(|(keys, policy, publish, verify, connections, runs)| Delivery { keys, policy, publish, verify, connections, runs })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![3 => delivery().prop_map(Step::Deliver), 1 => act().prop_map(Step::Act)]
}

fn server() -> impl Strategy<Value = Server> {
    let mostly = || prop::bool::weighted(0.85);
    (any::<bool>(), mostly(), mostly(), any::<bool>(), mostly(), mostly(), any::<bool>(), any::<bool>()).prop_map(
        |(streams, continues, read, hashes, syncs, atomic_replace, atomic_rename, exact_names)| Server {
            streams,
            continues,
            read,
            hashes,
            syncs,
            atomic_replace,
            atomic_rename,
            exact_names,
        },
    )
}

/// One transfer with all its processes. `Err` says what was not as the map has it.
async fn deliver(world: &Arc<World>, server: &Server, asked: &Delivery, number: u8) -> Result<(), String> {
    let keys: Vec<&'static str> =
        KEYS.iter().zip(asked.keys).filter(|(key, chosen)| *chosen && world.source.bytes(key).is_some()).map(|(key, _)| *key).collect();
    let capabilities = server.capabilities();
    world.begin(Asked {
        wanted: keys.iter().map(|key| (*key, world.source.bytes(key).expect("it was there a moment ago"))).collect(),
        policy: asked.policy,
        publish: asked.publish,
        atomic_replace: server.atomic_replace,
        refuses_taken: !server.streams,
        syncs: capabilities.sync,
    });
    let mut ferry = Ferry::new(Arc::new(world.source.clone()), Arc::new(world.destination.clone()), "/in");
    ferry.transfer = TransferId::from_random([number + 1; 10]);
    ferry.wishes.if_exists = asked.policy;
    ferry.wishes.publish = asked.publish;
    ferry.wishes.verify = asked.verify;
    ferry.tuning.range_size = RANGE as u64;
    ferry.tuning.connections = asked.connections;
    ferry.tuning.backoff = Backoff { attempts: 3, base: Duration::from_millis(1), cap: Duration::from_millis(2) };
    if asked.publish == Publish::StagingDir {
        ferry.temp_name = TempName::parse("tmp/.ff-{id}.part").unwrap();
    }
    let promised = matches!(asked.verify, Verify::AtLeast(grade) if grade.satisfies(Grade::ReadBack));
    let judge = Judge { world, server: &capabilities, verify: asked.verify, keys: &keys };
    let last = asked.runs.len();
    let mut story = Vec::new();
    for (at, events) in asked.runs.iter().map(Vec::as_slice).chain([&[][..]]).enumerate() {
        let script = Script::new(world.clone(), events.iter().cloned().collect::<BTreeMap<_, _>>(), promised);
        if at == last {
            world.destination.set_capacity(None);
        }
        ferry.source = Arc::new(ScriptedSource { inner: Arc::new(world.source.clone()), script: script.clone() });
        ferry.connector = Arc::new(ScriptedConnector { inner: Arc::new(world.destination.clone()), script: script.clone() });
        let ran = tokio::time::timeout(Duration::from_secs(30), process(&ferry, &keys, &script)).await;
        story.push(script.fired.lock().unwrap().join(", "));
        let ran = ran.map_err(|_| format!("process {at} hangs; {story:?}"))?;
        world.look("the process");
        let run =
            Run { ferry: &ferry, script: &script, outcome: ran, undisturbed: at == last, eventless: asked.runs.iter().all(Vec::is_empty) };
        judge.after(&run).map_err(|why| format!("process {at}: {why}; {story:?}"))?;
    }
    world.end();
    let problems = world.truth.lock().unwrap().problems.clone();
    if problems.is_empty() { Ok(()) } else { Err(format!("{}; {story:?}", problems.join("; "))) }
}

/// One process until it ends or is killed; `None` is a kill.
async fn process(ferry: &Ferry, keys: &[&str], script: &Script) -> Option<transfer::Result<()>> {
    // What an earlier process said of a file that failed is no answer of this one.
    ferry.records.files.lock().unwrap().values_mut().for_each(|kept| kept.failed = None);
    let (engine, _) = ferry.engine(&script.stop);
    let feed = ferry.feed(keys, engine.small_up_to()).await;
    let outcome = tokio::select! {
        biased;
        () = script.killed.cancelled() => None,
        outcome = engine.run(feed) => Some(outcome),
    };
    if outcome.is_some() {
        engine.pool().close().await;
    }
    drop(engine);
    // Let the runtime drop what a dead process had in hand.
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
    outcome
}

fn played(server: Server, sizes: [usize; 3], steps: Vec<Step>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(play(server, sizes, steps))
}

async fn play(server: Server, sizes: [usize; 3], steps: Vec<Step>) -> Result<(), String> {
    let world = World::new(MemoryDestination::with_capabilities(server.capabilities()), sizes);
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Act(act) => world.act(act),
            Step::Deliver(asked) => {
                deliver(&world, &server, asked, number as u8).await.map_err(|why| format!("transfer {number}: {why}"))?;
            }
        }
    }
    Ok(())
}

fn cases() -> (u32, RngSeed) {
    match std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse::<u32>().ok()) {
        Some(asked) => (asked.min(MOST_CASES), RngSeed::Random),
        None => (CASES, RngSeed::Fixed(4)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases().0,
        rng_seed: cases().1,
        max_shrink_iters: 400,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/model.txt"),
        ))),
        ..ProptestConfig::default()
    })]

    // Mutations that turn it red within 600 cases: nothing is compared before the name; what a lost connection had confirmed is
    // not suspected; a lost range is forgotten; the seam of a stream is off by one range. Within 3,000: `fail` replaces.
    //
    // SEMANTICS S1: "Under a final name there is either the whole file, proved as asked, or what was there before."
    #[test]
    fn the_engine_does_what_a_map_would(
        server in server(),
        sizes in [size(), size(), size()],
        steps in prop::collection::vec(step(), 1..5),
    ) {
        let outcome = played(server, sizes, steps);
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}
