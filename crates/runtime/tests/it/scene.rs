//! One service with a bucket on one side and a partner on the other, that can be stopped, killed and started again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use app::connectors::ConnectorSettings;
use app::{CopySpec, Options, S3Settings, ServerSettings, binding, register};
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use model::{TicketKind, TransferId, TransferState};
use runtime::{Place, Service, ServiceSettings};
use store::{Approval, Batch, Mutation, NewTicket, Request, RequestRecord, Store, TransferRecord, Wish};
use testkit::s3::{Bucket, S3Server};
use testkit::sftp::SftpServer;
use tokio_util::sync::CancellationToken;
use workflow::executor::{Clock, SystemClock};

pub const BUCKET: &str = "outbound";
pub const CONNECTOR: &str = "partner";
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Servers and disk. They live on a runtime of their own, so that a service that is killed takes nothing with it.
pub struct Scene {
    pub runtime: tokio::runtime::Runtime,
    pub s3: S3Server,
    pub bucket: Bucket,
    pub partner: SftpServer,
    pub store: Store,
    pub settings: ServiceSettings,
    /// The partner is entered with a password instead of a key.
    pub with_password: bool,
    directory: tempfile::TempDir,
}

/// The clocks of this machine, but for a wall clock that a test sets.
pub struct SetClock {
    system: SystemClock,
    ahead: Mutex<SignedDuration>,
}

impl SetClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { system: SystemClock::default(), ahead: Mutex::default() })
    }

    /// So many hours ahead of this machine's.
    pub fn set_ahead(&self, hours: i64) {
        *self.ahead.lock().unwrap() = SignedDuration::from_hours(hours);
    }
}

#[async_trait]
impl Clock for SetClock {
    fn wall(&self) -> Timestamp {
        self.system.wall() + *self.ahead.lock().unwrap()
    }

    fn steady(&self) -> Duration {
        self.system.steady()
    }

    async fn sleep_until(&self, until: Duration) {
        self.system.sleep_until(until).await;
    }
}

/// Must be found nowhere.
pub const CANARY: &str = "canary-4d1f0c77e2";

impl Scene {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (s3, partner, store) = runtime.block_on(async {
            let s3 = S3Server::start().await;
            let partner = SftpServer::builder()
                .root(directory.path().join("partner"))
                .keys_in(directory.path())
                .password(CANARY)
                .start()
                .await
                .unwrap();
            let store = Store::open(directory.path().join("state/fileferry.db")).await.unwrap();
            (s3, partner, store)
        });
        std::fs::create_dir_all(partner.file("in")).unwrap();
        let bucket = s3.bucket(BUCKET);
        let scene = Self { s3, bucket, partner, store, settings: ServiceSettings::default(), with_password: false, directory, runtime };
        scene.connect(5);
        scene
    }

    pub fn place(&self) -> Place {
        Place {
            state: self.directory.path().join("state"),
            home: self.directory.path().to_owned(),
            login_name: None,
            ssh_agent: None,
            lease: app::transfers::LEASE,
            prompt: None,
            sealed: None,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The connector, with so many slots.
    pub fn connect(&self, slots: u32) {
        self.connect_with(slots, |_| {});
    }

    pub fn connect_with(&self, slots: u32, agree: impl FnOnce(&mut ConnectorSettings)) {
        let server = ServerSettings { allow_private: Some(true), ..self.server() };
        let mut settings = ConnectorSettings { url: self.url(), server, limit: Some(slots), ..ConnectorSettings::default() };
        agree(&mut settings);
        let source = app::sources::SourceSettings { s3: self.s3_settings(), bucket: BUCKET.to_owned(), prefixes: Vec::new() };
        let (at, by) = (Timestamp::now(), "admin".to_owned());
        self.runtime.block_on(async {
            let expect = self.store.connector(CONNECTOR).await.unwrap().map(|known| known.version);
            let body = serde_json::to_string(&settings).unwrap();
            let put = Mutation::PutConnector { name: CONNECTOR.to_owned(), body, expect, by: by.clone(), at };
            self.store.commit(put).await.unwrap();
            let expect = self.store.source(BUCKET).await.unwrap().map(|known| known.version);
            let body = serde_json::to_string(&source).unwrap();
            self.store.commit(Mutation::PutSource { name: BUCKET.to_owned(), body, expect, by, at }).await.unwrap();
        });
    }

    fn url(&self) -> String {
        format!("sftp://{}@{}/in/", self.partner.user(), self.partner.address())
    }

    fn server(&self) -> ServerSettings {
        let host_keys = vec![self.partner.host_key_fingerprint()];
        if self.with_password {
            let file = self.path("password");
            std::fs::write(&file, CANARY).unwrap();
            let password_from = Some(format!("file:{}", file.display()));
            return ServerSettings { password_from, host_keys, ..ServerSettings::default() };
        }
        let identities = vec![self.partner.client_key().to_owned()];
        ServerSettings { identities, host_keys, ..ServerSettings::default() }
    }

    fn s3_settings(&self) -> S3Settings {
        let (endpoint, region) = (Some(self.s3.endpoint()), Some("us-east-1".to_owned()));
        S3Settings { endpoint, region, no_sign_request: true, ..S3Settings::default() }
    }

    /// A request for one key or a prefix, as somebody has made it, with its pair of tickets.
    pub fn submit(&self, what: &str) -> TransferId {
        self.submit_with(what, "ann", 5, |_| {})
    }

    pub fn submit_with(&self, what: &str, user: &str, priority: u8, change: impl FnOnce(&mut Options)) -> TransferId {
        let mut options = Options::default();
        change(&mut options);
        let spec = CopySpec {
            source: format!("s3://{BUCKET}/{what}"),
            destination: self.url(),
            s3: self.s3_settings(),
            server: self.server(),
            options,
        };
        let text = serde_json::to_string(&spec).unwrap();
        let id = app::transfers::new_id().unwrap();
        let now = Timestamp::now();
        let spec_hash = binding::spec_hash(user, CONNECTOR, BUCKET, &text);
        let record = TransferRecord {
            id: id.clone(),
            run: 1,
            identity: format!("request:{id}"),
            source: spec.source.clone(),
            destination: spec.destination.clone(),
            spec: text,
            state: TransferState::Pending,
            error_class: None,
            error_text: None,
            files_total: 0,
            bytes_total: 0,
            listed: false,
            pid: 0,
            created_at: now,
            updated_at: now,
            finished_at: None,
        };
        let request = RequestRecord {
            transfer: id.clone(),
            user: user.to_owned(),
            connector: CONNECTOR.to_owned(),
            source: BUCKET.to_owned(),
            priority,
            spec_hash: spec_hash.clone(),
            approval: Approval { policy: "auto".to_owned(), approved_by: None, approved_at: None },
            user_ticket: None,
            audit_ticket: None,
            wish: Wish::None,
            waiting: None,
            execution: None,
            created_at: now,
            updated_at: now,
            expires_at: now + SignedDuration::from_hours(24 * 90),
        };
        let ticket = |kind: TicketKind| {
            Mutation::OpenTicket(Box::new(NewTicket {
                correlation_id: format!("ff:{id}:{kind}"),
                kind,
                transfer: id.clone(),
                spec_hash: spec_hash.clone(),
                urgency: 2,
                group: "DataOps".to_owned(),
                opened_by: user.to_owned(),
                title: "a delivery".to_owned(),
                at: now,
            }))
        };
        self.runtime.block_on(async {
            let batch = Batch::new().push(Mutation::CreateTransfer(record)).push(ticket(TicketKind::User)).push(ticket(TicketKind::Audit));
            let tickets = self.store.commit(batch).await.unwrap().tickets;
            let (user_ticket, audit_ticket) = (register::shown(tickets[0].number), register::shown(tickets[1].number));
            let request = RequestRecord { user_ticket: Some(user_ticket), audit_ticket: Some(audit_ticket), ..request };
            self.store.commit(Mutation::CreateRequest(Box::new(request))).await.unwrap();
        });
        id
    }

    pub fn start(&self) -> Running {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let stop = CancellationToken::new();
        let started = Service::start(self.place(), self.store.clone(), self.settings.clone(), stop.clone());
        let service = runtime.block_on(started).unwrap_or_else(|failure| panic!("{}", failure.message));
        Running { service: Some(service), runtime: Some(runtime), stop }
    }

    pub fn state(&self, id: &TransferId) -> TransferState {
        self.runtime.block_on(self.store.transfer(id)).unwrap().unwrap().state
    }

    pub fn request(&self, id: &TransferId) -> Request {
        self.runtime.block_on(self.store.request(id, Timestamp::now())).unwrap().unwrap()
    }

    /// Waits until the transfer is in one of the states in which it rests.
    pub fn rests(&self, id: &TransferId) -> TransferState {
        let begun = Instant::now();
        loop {
            let state = self.state(id);
            if !matches!(state, TransferState::Pending | TransferState::InProgress) {
                return state;
            }
            assert!(begun.elapsed() < PATIENCE, "{id} is still {state}: {:#?}", self.history(id));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until this holds.
    pub fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < PATIENCE, "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The states that all executions of a transfer have entered.
    pub fn history(&self, id: &TransferId) -> Vec<String> {
        self.runtime.block_on(async {
            let mut states = Vec::new();
            for run in 1..10 {
                let rows = self.store.history(&binding::execution_name(id, run), 0, 1_000).await.unwrap_or_default();
                states.extend(rows.iter().filter(|row| row.kind.ends_with("StateEntered")).map(|row| row.body.clone()));
            }
            states
        })
    }

    pub fn wish(&self, id: &TransferId, wish: Wish) {
        let wish = Mutation::SetWish { transfer: id.clone(), wish, expect: None, at: Timestamp::now() };
        self.runtime.block_on(self.store.commit(wish)).unwrap();
    }

    /// As `resume` and `retry` do.
    pub fn again(&self, id: &TransferId) {
        let at = Timestamp::now();
        self.runtime.block_on(async {
            let record = self.store.transfer(id).await.unwrap().unwrap();
            let batch = Batch::new()
                .push(Mutation::StartRun { transfer: id.clone(), run: record.run + 1, pid: 0, at })
                .push(Mutation::SetTransferState { transfer: id.clone(), state: TransferState::Pending, error: None, at, expect: None })
                .push(Mutation::SetWaiting { transfer: id.clone(), waiting: None, at });
            self.store.commit(batch).await.unwrap();
        });
    }

    pub fn received(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.partner.file("in").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Everything below the partner's directory.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(self.partner.file("in")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The events of its chain in the audit.
    pub fn audited(&self, id: &TransferId) -> Vec<String> {
        let chain = model::audit::transfer_chain(id);
        let lines = self.runtime.block_on(self.store.audit(Some(&chain), store::AuditCursor::default(), 0)).unwrap();
        let event = |line: &store::AuditLine| serde_json::from_str::<model::audit::Entry>(&line.line).unwrap().event;
        lines.iter().map(event).collect()
    }

    pub fn tickets(&self, id: &TransferId) -> Vec<(TicketKind, String)> {
        let tickets = self.runtime.block_on(self.store.tickets(id)).unwrap();
        tickets.into_iter().map(|ticket| (ticket.kind, ticket.state.as_str().to_owned())).collect()
    }
}

/// A service that runs.
pub struct Running {
    service: Option<Service>,
    runtime: Option<tokio::runtime::Runtime>,
    stop: CancellationToken,
}

impl Running {
    pub fn service(&self) -> &Service {
        self.service.as_ref().expect("it runs")
    }

    /// As `serve` ends on SIGTERM.
    pub fn stop(mut self) {
        self.stop.cancel();
        let runtime = self.runtime.take().unwrap();
        runtime.block_on(self.service.take().unwrap().join());
        runtime.shutdown_background();
    }

    /// Nothing that it had begun comes to an end.
    pub fn kill(mut self) {
        drop(self.service.take());
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            drop(self.service.take());
            runtime.shutdown_background();
        }
    }
}

/// Bytes that differ everywhere.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ length as u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
