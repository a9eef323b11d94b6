//! The ten seconds: by both clocks, once, and for one request only.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use model::{TransferId, TransferState};
use serde_json::{Value, json};
use store::{Approval, Batch, Mutation, RequestRecord, Store, TransferRecord, Wish};
use workflow::executor::ManualClock;

use super::{Done, Ferry, Keep, Minted, SessionKey, Step, Stopped, TaskSettings, Tasks};
use crate::binding;
use crate::manifest::Totals;
use crate::register::Register;

struct NoFerry;

#[async_trait]
impl Ferry for NoFerry {
    async fn list(&self, _: &TransferId) -> Result<Totals, Stopped> {
        Ok(Totals::default())
    }
    async fn open(&self, _: &TransferId) -> Result<(), Stopped> {
        Ok(())
    }
    async fn send(&self, _: &TransferId, _: &(dyn Fn() + Send + Sync)) -> Result<bool, Stopped> {
        Ok(false)
    }
    async fn finish(&self, _: &TransferId) -> Result<(), Stopped> {
        Ok(())
    }
    async fn release(&self, _: &TransferId, _: Keep) {}
}

struct Scene {
    tasks: Tasks,
    clock: Arc<ManualClock>,
    id: TransferId,
}

const SPEC: &str = r#"{"source":"s3://b/k","destination":"sftp://u@h/in/","s3":{},"ssh":{},"options":{}}"#;

async fn scene() -> Scene {
    let store = Store::open_in_memory().await.unwrap();
    let clock = Arc::new(ManualClock::new("2026-03-29T00:59:00Z".parse().unwrap()));
    let id = TransferId::from_random([7; 10]);
    let now: Timestamp = "2026-03-29T00:59:00Z".parse().unwrap();
    let record = TransferRecord {
        id: id.clone(),
        run: 1,
        identity: binding::new_request_identity(&id),
        source: "s3://b/k".into(),
        destination: "sftp://u@h/in/".into(),
        spec: SPEC.into(),
        state: TransferState::InProgress,
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
        user: "ann".into(),
        connector: "partner".into(),
        source: "bucket".into(),
        priority: 5,
        spec_hash: binding::spec_hash("ann", "partner", "bucket", SPEC),
        approval: Approval { policy: "auto".into(), approved_by: None, approved_at: None },
        user_ticket: None,
        audit_ticket: None,
        wish: Wish::None,
        waiting: None,
        execution: None,
        created_at: now,
        updated_at: now,
        expires_at: now + SignedDuration::from_hours(24),
    };
    let body = json!({"url": "sftp://u@h/in/"}).to_string();
    let connector = Mutation::PutConnector { name: "partner".into(), body, expect: None, by: "admin".into(), at: now };
    let batch = Batch::new().push(connector).push(Mutation::CreateTransfer(record)).push(Mutation::CreateRequest(Box::new(request)));
    store.commit(batch).await.unwrap();
    let tasks = Tasks {
        store: store.clone(),
        ferry: Arc::new(NoFerry),
        tickets: Arc::new(Register::new(store)),
        clock: clock.clone(),
        key: SessionKey::new(&[9; 32]),
        minted: Minted::default(),
        settings: TaskSettings {
            session: SignedDuration::from_secs(10),
            ticket_max_age: SignedDuration::from_hours(1),
            notifiers: Vec::new(),
        },
    };
    Scene { tasks, clock, id }
}

impl Scene {
    async fn run(&self, name: &str, execution: &str) -> Result<Value, String> {
        let payload = json!({"step": name, "transfer_id": self.id, "run": 1, "execution": execution});
        let outcome = self.tasks.run(&Step::read(&payload).unwrap(), &|| {}).await;
        outcome.map(|Done { output, .. }| output).map_err(|stopped| stopped.fault().unwrap().error)
    }

    async fn mint(&self) -> u64 {
        self.run("AuthenticateSSO", "one").await.unwrap()["attempt"].as_u64().unwrap()
    }

    async fn present(&self) -> Result<Value, String> {
        self.run("DownloadFromS3", "one").await
    }
}

// Mutation: neither clock refuses the tenth second (`usable` the steady one, `is_live` the wall clock); one of them is enough here.
#[tokio::test]
async fn a_session_lives_ten_seconds_and_not_a_tenth_longer() {
    for (seconds, good) in [(9.9, true), (10.0, false), (10.1, false)] {
        let scene = scene().await;
        assert_eq!(scene.mint().await, 1);
        scene.clock.advance(Duration::from_secs_f64(seconds));
        assert_eq!(scene.present().await.is_ok(), good, "{seconds}");
    }
}

// Mutation: `usable` does not ask the steady clock: what is set back by five seconds lives on.
#[tokio::test]
async fn a_wall_clock_that_is_set_lengthens_no_session() {
    // Set back by an hour, it is before the session was made; by five seconds, it is within.
    for seconds in [-3_600, -5, 3_600] {
        let scene = scene().await;
        scene.mint().await;
        scene.clock.advance(Duration::from_millis(10_100));
        scene.clock.set_wall(SignedDuration::from_secs(seconds));
        assert_eq!(scene.present().await.unwrap_err(), "SessionExpired", "{seconds}");
    }
}

// Mutations: `consume` leaves no grant; a session is for every execution (`SessionKey::hash`).
#[tokio::test]
async fn a_session_that_was_used_passes_again_for_its_execution_only_and_then_rests_on_the_grant() {
    let scene = scene().await;
    scene.mint().await;
    scene.present().await.unwrap();
    scene.clock.advance(Duration::from_secs(3_600));
    scene.present().await.unwrap();

    let scene = self::scene().await;
    scene.mint().await;
    assert_eq!(scene.run("DownloadFromS3", "two").await.unwrap_err(), "SessionExpired", "it has no session of its own");
    scene.present().await.unwrap();
}

// Mutation: `usable` does not compare what it is for; the store would refuse it, with an error that mints another.
#[tokio::test]
async fn a_session_for_something_else_opens_nothing() {
    let scene = scene().await;
    scene.mint().await;
    let other = binding::spec_hash("ann", "partner", "bucket", "another");
    let step = Step::read(&json!({"step": "DownloadFromS3", "transfer_id": scene.id, "run": 1, "execution": "one"})).unwrap();
    let mut request = scene.tasks.store.request(&scene.id, scene_now(&scene)).await.unwrap().unwrap().record;
    request.spec_hash = other;
    let stopped = scene.tasks.consume(&step, &request).await.unwrap_err();
    assert_eq!(stopped.fault().unwrap().error, "session_expired");
    assert!(scene.tasks.store.grant(&scene.id).await.unwrap().is_none());
}

// Mutations: one attempt more; a second run of the step mints anew (`authenticate`).
#[tokio::test]
async fn a_session_is_minted_three_times_at_most() {
    let scene = scene().await;
    for attempt in 1..=3 {
        assert_eq!(scene.mint().await, attempt);
        assert_eq!(scene.mint().await, attempt, "a second run of the step mints nothing");
        scene.clock.advance(Duration::from_secs(11));
        assert_eq!(scene.present().await.unwrap_err(), "SessionExpired");
    }
    assert_eq!(scene.run("AuthenticateSSO", "one").await.unwrap_err(), "session_expired");
}

fn scene_now(scene: &Scene) -> Timestamp {
    use workflow::executor::Clock as _;
    scene.clock.wall()
}
