//! What becomes of transfers when their connector's window closes over them, and when it is disabled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use app::connectors::ConnectorSettings;
use async_trait::async_trait;
use integrations::{Fault, Ticket, TicketChange, TicketSystem};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use model::{ErrorClass, FileNumber, TicketKind, TransferId, TransferState};
use runtime::NotifierKind;

use crate::scene::{Scene, SetClock, pattern, text};

/// Open for an hour yet, closed in two, open again in a day.
fn window(settings: &mut ConnectorSettings) {
    let hour = |ahead: i64| {
        let at = Timestamp::now() + SignedDuration::from_hours(ahead);
        at.to_zoned(TimeZone::UTC).strftime("%H:%M").to_string()
    };
    settings.window = Some(format!("{}-{}", hour(-1), hour(1)).parse().unwrap());
}

const CLOSED: i64 = 2;
const OPEN_AGAIN: i64 = 24;

fn scene() -> (Scene, Arc<SetClock>) {
    let (mut scene, clock) = (Scene::new(), SetClock::new());
    scene.settings.clock = clock.clone();
    scene.settings.notifiers = vec![NotifierKind::File(scene.path("notices"))];
    scene.connect_with(5, window);
    (scene, clock)
}

/// Why it is held, and that nothing has its name: only a temporary file of ours is at the partner.
fn held(scene: &Scene, id: &TransferId) -> (ErrorClass, String) {
    assert_eq!(scene.rests(id), TransferState::Held, "{:#?}", scene.history(id));
    let names = scene.names();
    assert!(names.len() == 1 && names[0].starts_with(".ff-"), "{names:?}");
    let waiting = scene.request(id).record.waiting.unwrap();
    let record = scene.runtime.block_on(scene.store.transfer(id)).unwrap().unwrap();
    assert_eq!(record.error_class, waiting.class);
    (waiting.class.unwrap(), waiting.reason)
}

/// Delivered once, in its second run, with one notice of each of its two ends.
fn delivered(scene: &Scene, id: &TransferId, key: &str, size: usize) {
    scene.until("it goes on by itself", || scene.state(id).is_terminal());
    assert_eq!(scene.state(id), TransferState::Completed, "{:#?}", scene.history(id));
    assert!(scene.received(key) == pattern(size));
    assert_eq!(scene.names(), [key], "nothing of ours is left");
    assert_eq!(scene.runtime.block_on(scene.store.receipts(id, None, 10)).unwrap().len(), 1);
    assert_eq!(scene.request(id).run, 2);
    let closed = [(TicketKind::User, "Resolved".to_owned()), (TicketKind::Audit, "Closed".to_owned())];
    scene.until("the tickets are told", || scene.tickets(id) == closed);
    let notices = || text(&scene.path("notices"));
    scene.until("people are told", || notices().lines().count() >= 2);
    let told = |word: &str| notices().lines().filter(|line| line.contains(&format!("transfer {id} {word}"))).count();
    assert_eq!((told("held"), told("completed"), notices().lines().count()), (1, 1, 2), "{}", notices());
}

/// Mutation: `Harbour::watch` looks at wishes alone, or admission releases nothing: with the first it sends all of the file before
/// it is held, with the second it waits for ever. The checkpoint at the stop has its guard in `vast.rs`.
// SEMANTICS S76: "When a connector's window closes, or the connector is disabled, no file of it gets its name any more: its
// transfers are held with what the server has confirmed, and go on by themselves when the window opens or the connector is enabled."
#[test]
fn a_window_that_closes_over_a_file_and_a_connector_that_is_disabled_hold_it_until_they_let_it_go_on() {
    for disabled in [false, true] {
        let (scene, clock) = scene();
        let size = 40 << 20;
        scene.bucket.put("large.bin", pattern(size));
        scene.s3.set_bandwidth(Some(8 << 20));
        let id = scene.submit("large.bin");
        let running = scene.start();
        scene.until("bytes travel", || scene.partner.recorder().bytes_written() > 12 << 20);
        match disabled {
            true => scene.connect_with(5, |settings| settings.enabled = false),
            false => clock.set_ahead(CLOSED),
        }
        let (class, reason) = held(&scene, &id);
        match disabled {
            true => assert_eq!((class, reason.as_str()), (ErrorClass::PolicyDenied, "its connector is disabled")),
            false => assert!(class == ErrorClass::WindowClosed && reason.starts_with("the window opens at 20"), "{class}: {reason}"),
        }
        let on_hold = [(TicketKind::User, "On Hold".to_owned()), (TicketKind::Audit, "On Hold".to_owned())];
        scene.until("the tickets are on hold", || scene.tickets(&id) == on_hold);
        let grant = scene.runtime.block_on(scene.store.grant(&id)).unwrap().expect("the grant stays");
        assert!(grant.execution.ends_with("-1"));
        assert!(scene.partner.recorder().bytes_written() < size as u64, "it went on sending");
        let file = scene.runtime.block_on(scene.store.file(&id, FileNumber(0))).unwrap().unwrap();
        assert!(file.checkpoint.is_some() && file.bytes_done > 8 << 20, "{} bytes are on record", file.bytes_done);

        // The next start finds it as the records have it.
        running.stop();
        scene.partner.recorder().clear();
        scene.s3.set_bandwidth(None);
        match disabled {
            true => scene.connect(5),
            false => clock.set_ahead(OPEN_AGAIN),
        }
        let running = scene.start();
        delivered(&scene, &id, "large.bin", size);
        let again = scene.partner.recorder().bytes_written();
        assert!(again <= size as u64 - file.bytes_done, "{again} bytes after {} of {size} were confirmed", file.bytes_done);
        running.stop();
    }
}

/// The tickets of the register; the window closes when they are asked for the last time before a file gets its name.
struct Closing {
    inner: Arc<dyn TicketSystem>,
    clock: Arc<SetClock>,
    reads: AtomicUsize,
}

impl std::fmt::Debug for Closing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Closing")
    }
}

#[async_trait]
impl TicketSystem for Closing {
    async fn read(&self, number: &str) -> Result<Option<Ticket>, Fault> {
        // Two at the beginning, two at the gate.
        if self.reads.fetch_add(1, SeqCst) + 1 == 4 {
            self.clock.set_ahead(CLOSED);
        }
        self.inner.read(number).await
    }

    async fn write(&self, number: &str, key: &str, change: &TicketChange) -> Result<(), Fault> {
        self.inner.write(number, key, change).await
    }
}

/// Mutation: the gate asks the tickets alone: the file gets its name outside the window. The sweep looks at its own run alone:
/// the temporary file of a small one, which is sent anew, stays at the partner.
#[test]
fn a_window_that_closes_before_the_last_step_keeps_the_name_back_and_what_was_proved() {
    for (size, again) in [(12 << 20, 0), (1_000, 1_000)] {
        let (mut scene, clock) = scene();
        let inner = Arc::new(app::register::Register::new(scene.store.clone()));
        scene.settings.tickets = Some(Arc::new(Closing { inner, clock: clock.clone(), reads: AtomicUsize::new(0) }));
        scene.bucket.put("a.csv", pattern(size));
        let id = scene.submit("a.csv");
        let running = scene.start();
        let (class, reason) = held(&scene, &id);
        assert!(class == ErrorClass::WindowClosed && reason.starts_with("the window opens at 20"), "{class}: {reason}");
        scene.partner.recorder().clear();
        clock.set_ahead(OPEN_AGAIN);
        running.service().wake();
        delivered(&scene, &id, "a.csv", size);
        assert_eq!(scene.partner.recorder().bytes_written(), again);
        running.stop();
    }
}

/// Tickets that take no words for a while.
struct Away {
    inner: Arc<dyn TicketSystem>,
    is_away: AtomicBool,
}

impl std::fmt::Debug for Away {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Away")
    }
}

#[async_trait]
impl TicketSystem for Away {
    async fn read(&self, number: &str) -> Result<Option<Ticket>, Fault> {
        self.inner.read(number).await
    }

    async fn write(&self, number: &str, key: &str, change: &TicketChange) -> Result<(), Fault> {
        match self.is_away.load(SeqCst) {
            true => Err(Fault::Unavailable("it is away".into())),
            false => self.inner.write(number, key, change).await,
        }
    }
}

/// Mutation: admission does not ask whether the tickets were told: the next run is held for a person, `ticket_unavailable`.
#[test]
fn a_window_that_opens_before_the_tickets_were_told_waits_for_them_and_for_nobody_else() {
    let (mut scene, clock) = scene();
    let away = Arc::new(Away { inner: Arc::new(app::register::Register::new(scene.store.clone())), is_away: AtomicBool::new(true) });
    scene.settings.tickets = Some(away.clone());
    let closing = clock.clone();
    scene.settings.step_hook = Some(Arc::new(move |name: &str, over: bool| {
        if name == "AuthenticateSSO" && over {
            closing.set_ahead(CLOSED);
        }
    }));
    scene.bucket.put("a.csv", pattern(1_000));
    let id = scene.submit("a.csv");
    let running = scene.start();
    assert_eq!(scene.rests(&id), TransferState::Held, "{:#?}", scene.history(&id));
    running.stop();
    scene.settings.step_hook = None;
    clock.set_ahead(OPEN_AGAIN);
    let running = scene.start();
    let told = || scene.request(&id).record.waiting.is_some_and(|waiting| waiting.reason.contains("still to be told"));
    scene.until("it says what it waits for", told);
    assert_eq!(scene.state(&id), TransferState::Held);
    away.is_away.store(false, SeqCst);
    delivered(&scene, &id, "a.csv", 1_000);
    running.stop();
}

/// Mutation: the last step waits for the window whatever is left to do: a delivered transfer is held.
#[test]
fn what_is_delivered_waits_for_no_window_and_what_is_not_begins_in_none() {
    for (step, state) in [("OpenTransfer", TransferState::Held), ("FinishTransfer", TransferState::Completed)] {
        let (mut scene, clock) = scene();
        let closing = clock.clone();
        scene.settings.step_hook = Some(Arc::new(move |name: &str, over: bool| {
            if name == step && !over {
                closing.set_ahead(CLOSED);
            }
        }));
        scene.bucket.put("a.csv", pattern(1_000));
        let id = scene.submit("a.csv");
        let running = scene.start();
        assert_eq!(scene.rests(&id), state, "{step}: {:#?}", scene.history(&id));
        let names: &[&str] = if state == TransferState::Held { &[] } else { &["a.csv"] };
        assert_eq!(scene.names(), names, "{step}");
        running.stop();
    }
}
