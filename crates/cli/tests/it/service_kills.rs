//! The real service killed at random moments, a real OpenSSH server behind it: whatever dies when, each transfer ends once,
//! whole, told once and with its tickets in the right state.
//!
//! `FILEFERRY_KILLS` says how many kills (12 without it), `FILEFERRY_SEED` repeats the moments of a run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use model::audit::{self, Entry};
use model::{TicketKind, TransferId, TransferState};
use serde_json::Value;
use store::{AuditCursor, ExecutionQuery, OutboxState, Store};
use testkit::s3::Content;
use testkit::sshd::SshdOptions;

use super::service::{begin, done, id_of};
use super::shop::{Shop, ended, files_below, shop, signal};
use super::sites::{self, Site};
use super::*;

const KILLS: u64 = 12;
/// A life ends at most so long after it began; the shortest ones are over before it serves.
const LONGEST_LIFE: u64 = 1_300;
const MIB: u64 = 1 << 20;
/// After the last kill everything ends within this time.
const PATIENCE: Duration = Duration::from_secs(120);
/// Nobody: who approves what root has asked for.
const SECOND_PERSON: u32 = 65_534;

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Submit,
    Approve,
    Pause,
    Resume,
}

/// One transfer and what is still to be asked of the service for it.
struct Order {
    source: String,
    connector: &'static str,
    /// Below the partner's directory.
    directory: String,
    files: BTreeMap<String, Content>,
    verbs: VecDeque<Verb>,
    id: Option<String>,
}

/// The service's directory, and the program where everybody may run it.
struct Stage {
    shop: Shop,
    site: Site,
    place: tempfile::TempDir,
    may_approve: bool,
}

impl Stage {
    async fn new() -> Option<Self> {
        let shop = shop().await;
        let site = sites::openssh(SshdOptions::default()).await?;
        let place = tempfile::Builder::new().prefix("ff-killed").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_fileferry"), place.path().join("fileferry")).unwrap();
        // Only root can call as somebody else.
        let may_approve = rustix::process::geteuid().is_root();
        Some(Self { shop, site, place, may_approve })
    }

    fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    fn notices(&self) -> PathBuf {
        self.place.path().join("notices")
    }

    fn serve(&self) -> Command {
        let grant = format!("{SECOND_PERSON}=operator");
        let (data, notices) = (self.data(), self.notices());
        self.shop.command(&["serve", "-v", "--data", text(&data), "--notices", text(&notices), "--grant", &grant])
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let data = self.data();
        self.shop.run(&[arguments, &["--data", text(&data)]].concat())
    }

    fn run_as_second_person(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(self.place.path().join("fileferry"));
        command.env_clear().env("HOME", "/nonexistent").args(arguments).args(["--data", text(&self.data()), "--json"]).current_dir("/");
        command.uid(SECOND_PERSON).gid(SECOND_PERSON);
        ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn set_up(&self) {
        let service = super::service::serving(self.serve(), |_| {});
        let trust: Vec<&str> = self.site.trust.iter().map(String::as_str).collect();
        for (name, approval) in [("partner", "auto"), ("guarded", "second-person")] {
            let add = ["connector", "add", name, &self.site.url, "--allow-private", "--approval", approval];
            done(self.run(&[&add[..], &trust].concat()));
        }
        let endpoint = self.shop.server.endpoint();
        done(self.run(&["source", "add", "orders", "s3://b/out/", "--s3-endpoint", &endpoint, "--s3-region", "us-east-1"]));
        drop(service);
    }

    /// A set of transfers of every kind, in directories of their own.
    fn orders(&self, round: u64) -> Vec<Order> {
        let order = |name: &str, connector, keys: Vec<(String, u64)>, verbs: &[Verb]| {
            let directory = format!("{round}-{name}");
            let prefix = format!("out/{directory}/");
            let mut files = BTreeMap::new();
            for (index, (key, size)) in keys.iter().enumerate() {
                let content = Content::generated(round * 1_000 + index as u64, *size);
                self.shop.bucket.put(&format!("{prefix}{key}"), content.clone());
                files.insert(format!("{directory}/{key}"), content);
            }
            let source = format!("orders:{prefix}");
            Order { source, connector, directory, files, verbs: verbs.iter().copied().collect(), id: None }
        };
        let one = |name: &str, size: u64| vec![(name.to_owned(), size)];
        let small = (0..200).map(|number| (format!("{number:03}"), 200 + number * 37)).collect();
        let mut orders = vec![
            order("one", "partner", one("a.csv", 70_000), &[Verb::Submit]),
            order("large", "partner", one("large", 40 * MIB + 77), &[Verb::Submit]),
            order("small", "partner", small, &[Verb::Submit]),
            order("paused", "partner", one("paused", 20 * MIB + 5), &[Verb::Submit, Verb::Pause, Verb::Resume]),
        ];
        if self.may_approve {
            orders.push(order("guarded", "guarded", one("b.csv", 9_000), &[Verb::Submit, Verb::Approve]));
        }
        orders
    }

    /// Asks for the next thing. `false`: nobody answers any more.
    fn ask(&self, order: &mut Order) -> bool {
        let Some(verb) = order.verbs.front().copied() else { return true };
        let id = order.id.clone().unwrap_or_default();
        let ran = match verb {
            Verb::Submit => {
                let destination = format!("{}:{}/", order.connector, order.directory);
                // The same key each time: a kill between the record and the answer makes no second transfer.
                self.run(&["transfer", "submit", &order.source, &destination, "--idempotency-key", &order.directory])
            }
            Verb::Approve => self.run_as_second_person(&["transfer", "approve", &id]),
            Verb::Pause | Verb::Resume => {
                let shown = self.run(&["transfer", "show", &id]);
                if shown.code != 0 {
                    return false;
                }
                let state = shown.objects()[0]["state"].clone();
                match (verb, state.as_str().unwrap_or_default()) {
                    (Verb::Pause, "in_progress") => self.run(&["transfer", "pause", &id]),
                    (Verb::Resume, "paused") => self.run(&["transfer", "resume", &id]),
                    // It was too late for a pause; or the pause has come, and whoever asked for it never heard so.
                    (_, "completed") | (Verb::Pause, "paused") => {
                        order.verbs.pop_front();
                        return true;
                    }
                    _ => return true,
                }
            }
        };
        match ran.code {
            0 => {
                if verb == Verb::Submit {
                    let id = id_of(&ran);
                    // Asked once more, perhaps in another life, as by whoever has not heard the answer.
                    match order.id.replace(id.clone()) {
                        None => return true,
                        Some(first) => assert_eq!(first, id, "{} was submitted twice", order.directory),
                    }
                }
                order.verbs.pop_front();
                true
            }
            5 => false,
            // What was asked for in an earlier life has happened, and only the answer was lost.
            1 if verb != Verb::Submit => {
                order.verbs.pop_front();
                true
            }
            code => panic!("{verb:?}: {code} {}{}", ran.out, ran.err),
        }
    }

    fn has_ended(&self, order: &Order) -> bool {
        let Some(id) = order.id.as_deref().filter(|_| order.verbs.is_empty()) else { return false };
        let shown = self.run(&["transfer", "show", id]);
        if shown.code != 0 {
            return false;
        }
        let shown = &shown.objects()[0];
        assert!(shown["state"] != "failed" && shown["state"] != "completed_with_errors", "{shown}");
        shown["state"] == "completed"
    }

    /// Plays until the service is dead or everything has ended. Whether it has.
    fn play(&self, orders: &mut [Order], chance: &mut Chance, is_alive: &dyn Fn() -> bool) -> bool {
        while is_alive() {
            let at = chance.below(orders.len() as u64) as usize;
            if !self.ask(&mut orders[at]) {
                return false;
            }
            if orders.iter().all(|order| self.has_ended(order)) {
                return true;
            }
        }
        false
    }
}

async fn audited(store: &Store, id: &TransferId) -> Vec<Entry> {
    let (chain, mut after, mut entries) = (audit::transfer_chain(id), AuditCursor::default(), Vec::new());
    loop {
        let page = store.audit(Some(&chain), after, 0).await.unwrap();
        let Some(last) = page.last() else { return entries };
        after = last.into();
        entries.extend(page.iter().map(|line| serde_json::from_str::<Entry>(&line.line).unwrap()));
    }
}

/// Everything that must hold of transfers that have ended.
async fn judge(stage: &Stage, orders: &[Order], kills: u64, last: u32) {
    let there = files_below(&stage.site.disk);
    let wanted: BTreeMap<&str, &Content> = orders.iter().flat_map(|order| &order.files).map(|(name, c)| (name.as_str(), c)).collect();
    let names: Vec<String> = there.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let ours = names.iter().map(String::as_str).eq(wanted.keys().copied());
    assert!(
        ours,
        "{} of {}; {:?}",
        names.len(),
        wanted.len(),
        names.iter().filter(|name| !wanted.contains_key(name.as_str())).collect::<Vec<_>>()
    );
    for (name, content) in &wanted {
        assert!(there[name.as_bytes()] == content.bytes(), "{name} is not whole");
    }
    let store = Store::open(stage.data().join("fileferry.db")).await.unwrap();
    let notices = std::fs::read_to_string(stage.notices()).unwrap_or_default();
    let told: Vec<Value> = notices.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (mut unconfirmed, mut runs) = (0, 0);
    for order in orders {
        let id: TransferId = order.id.as_ref().unwrap().parse().unwrap();
        let what = &order.directory;
        let record = store.transfer(&id).await.unwrap().unwrap();
        assert_eq!(record.state, TransferState::Completed, "{what}: {:?}", record.error_text);
        let receipts = store.receipts(&id, None, 1_000).await.unwrap();
        assert_eq!(receipts.len(), order.files.len(), "{what}");
        let tickets = store.tickets(&id).await.unwrap();
        let ends: Vec<_> = tickets.iter().map(|ticket| (ticket.kind, ticket.state.as_str())).collect();
        assert_eq!(ends, [(TicketKind::User, "Resolved"), (TicketKind::Audit, "Closed")], "{what}");
        for ticket in &tickets {
            let mut keys: Vec<_> = store.ticket_notes(ticket.number).await.unwrap().into_iter().map(|note| note.key).collect();
            let all = keys.len();
            keys.sort();
            keys.dedup();
            assert_eq!(keys.len(), all, "{what}: a note stands in the ticket twice");
        }
        // One execution for each run, and of each exactly one end.
        let executions = store.executions(ExecutionQuery { transfer: Some(id.clone()), ..ExecutionQuery::default() }).await.unwrap();
        assert_eq!(executions.len(), record.run as usize, "{what}");
        runs += executions.len();
        let mut succeeded = 0;
        for execution in executions {
            assert!(execution.status.is_terminal(), "{what}: {} is {}", execution.name, execution.status);
            let history = store.history(&execution.name, 0, 1_000).await.unwrap();
            let last = ["ExecutionSucceeded", "ExecutionFailed", "ExecutionTimedOut", "ExecutionAborted"];
            let ends: Vec<_> = history.iter().filter(|row| last.contains(&row.kind.as_str())).map(|row| row.kind.as_str()).collect();
            assert_eq!(ends.len(), 1, "{what}: {} ends as {ends:?}", execution.name);
            succeeded += usize::from(ends == ["ExecutionSucceeded"]);
        }
        assert_eq!(succeeded, 1, "{what}");
        // Every state, each from the one before; every file once, under the receipt that the partner has.
        let chain = audited(&store, &id).await;
        assert_eq!(chain[0].event, "requested", "{what}");
        let mut state = "pending".to_owned();
        for entry in chain.iter().filter(|entry| entry.event == "state") {
            let from = entry.detail["from"].as_str().unwrap();
            assert!(
                from == state || (state == "pending" && from == "held"),
                "{what}: to {} from {from}, not from {state}",
                entry.detail["to"]
            );
            state = entry.detail["to"].as_str().unwrap().to_owned();
        }
        assert_eq!(state, "completed", "{what}");
        let signed: BTreeSet<String> = receipts.iter().map(|(_, line)| audit::hash(line)).collect();
        let named =
            chain.iter().filter(|entry| entry.event == "file").map(|entry| entry.detail["receipt_sha256"].as_str().unwrap().to_owned());
        let named: Vec<String> = named.collect();
        assert_eq!((named.len(), named.into_iter().collect::<BTreeSet<_>>()), (signed.len(), signed), "{what}");
        // Each notice once; or perhaps, which the records say.
        for (_, message) in store.outbox(&[], Some(&id), 0, 1_000).await.unwrap() {
            let key = message.key.to_string();
            let heard = told.iter().filter(|notice| notice["key"] == key.as_str()).count();
            match (message.target.starts_with("file:"), message.state) {
                (true, OutboxState::Sent) => assert_eq!(heard, 1, "{key}"),
                (true, OutboxState::Unconfirmed) => {
                    assert!(heard <= 1, "{key} was told {heard} times");
                    unconfirmed += 1;
                }
                (false, OutboxState::Sent | OutboxState::Unconfirmed) => {}
                (_, state) => panic!("{key} is {state}"),
            }
        }
    }
    assert_eq!(store.slots(None).await.unwrap(), []);
    // What a dead one held runs out by itself.
    let held: Vec<_> = store.leases().await.unwrap().into_iter().filter(|lease| lease.pid == last).collect();
    assert_eq!(held, []);
    println!("{kills} kills, {} transfers in {runs} runs, {} notices, {unconfirmed} of them unconfirmed", orders.len(), told.len());
    store.close().await.unwrap();
}

// Mutations: the executor does not take up what it finds open (`Executor::resume`); a submission forgets its idempotency key. A
// notice whose sender died is told again too seldom to be seen here: `outbox_kills.rs` of the store is its guard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_killed_at_random_delivers_everything_once_and_says_it_once() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let all = number("FILEFERRY_KILLS").unwrap_or(KILLS);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("FILEFERRY_SEED").unwrap_or(now.as_millis() as u64);
    println!("FILEFERRY_SEED={seed}");
    let mut chance = Chance(seed);
    let Some(stage) = Stage::new().await else { return };
    stage.set_up();
    // As slow as makes the large files last through several lives.
    stage.shop.server.set_bandwidth(Some(8 * MIB));
    let (mut orders, mut round, mut kills) = (stage.orders(0), 0, 0);
    let mut before = 0;
    while kills < all {
        let life = Duration::from_millis(chance.below(LONGEST_LIFE));
        let mut killer = None;
        let mut service = begin(stage.serve(), |pid| {
            killer = Some(std::thread::spawn(move || {
                std::thread::sleep(life);
                signal(pid, "KILL");
            }));
        });
        let killer = killer.unwrap();
        if !service.serving.is_null() && stage.play(&mut orders[before..], &mut chance, &|| !killer.is_finished()) {
            // Everything has ended before the kills have: the same again.
            round += 1;
            before = orders.len();
            orders.extend(stage.orders(round));
        }
        killer.join().unwrap();
        let status = service.child.wait().unwrap();
        assert_eq!(status.code(), None, "it was killed, and did not end by itself: {}", service.said());
        kills += 1;
    }
    stage.shop.server.set_bandwidth(None);
    let begun = Instant::now();
    let mut service = super::service::serving(stage.serve(), |_| {});
    while !stage.play(&mut orders[before..], &mut chance, &|| begun.elapsed() < PATIENCE) {
        assert!(begun.elapsed() < PATIENCE, "not everything ends: {}\n{}", stage.run(&["transfer", "list"]).out, service.said());
    }
    // What is to be told goes out after the end.
    let watching = Store::open(stage.data().join("fileferry.db")).await.unwrap();
    while !watching.outbox(&[OutboxState::Waiting, OutboxState::Claimed], None, 0, 1).await.unwrap().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "the outbox is not emptied: {}", service.said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    watching.close().await.unwrap();
    let verified = stage.run(&["audit", "verify", "--seals", text(&stage.data().join("audit-seals.jsonl"))]);
    assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
    signal(service.child.id(), "TERM");
    assert_eq!(service.child.wait().unwrap().code(), Some(0), "{}", service.said());
    judge(&stage, &orders, kills, service.child.id()).await;
}
