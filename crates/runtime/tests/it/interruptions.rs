//! A cancel, or a clock that is set, at every step of the workflow: E6 and E5 of the fault list.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use app::policy::{Principal, Role};
use app::requests;
use jiff::Timestamp;
use model::{TicketKind, TransferId, TransferState};
use runtime::NotifierKind;

use crate::scene::{PATIENCE, Scene, SetClock, pattern, text};
use crate::service::STEPS;

/// The first time that a step is reached (or is over), it waits until it is let go on.
struct Halt {
    reached: Receiver<()>,
    go: SyncSender<()>,
}

impl Halt {
    fn at(scene: &mut Scene, step: &'static str, over: bool) -> Self {
        let ((told, reached), (go, gone)) = (sync_channel(1), sync_channel::<()>(1));
        let once = Mutex::new(Some((told, gone)));
        scene.settings.step_hook = Some(Arc::new(move |name: &str, is_over: bool| {
            if name == step
                && is_over == over
                && let Some((told, gone)) = once.lock().unwrap().take()
            {
                told.send(()).unwrap();
                // An end of the test lets it go, too.
                let _ = gone.recv();
            }
        }));
        Self { reached, go }
    }

    fn wait(&self) {
        self.reached.recv_timeout(PATIENCE).expect("the step is reached");
    }

    fn go(self) {
        self.go.send(()).unwrap();
    }
}

fn cancel(scene: &Scene, id: &TransferId) -> app::Result<requests::Shown> {
    let ann = Principal { user: "ann".to_owned(), role: Role::Operator };
    scene.runtime.block_on(requests::cancel(&scene.store, &ann, id, Timestamp::now()))
}

// E6. Mutations: `obeyed` looks at no wish; the tail's own steps obey the wish; `stop` refuses one that is cancelled already.
#[test]
fn a_cancel_at_every_step_ends_once_and_leaves_a_whole_file_or_none() {
    let mut ends = Vec::new();
    for step in STEPS {
        for over in [false, true] {
            let what = format!("{step}, {}", if over { "over" } else { "begun" });
            let mut scene = Scene::new();
            let notices = scene.path("notices");
            scene.settings.notifiers = vec![NotifierKind::File(notices.clone())];
            scene.bucket.put("a.csv", pattern(300_000));
            let id = scene.submit("a.csv");
            let halt = Halt::at(&mut scene, step, over);
            let running = scene.start();
            halt.wait();
            // Twice, as people do who see nothing happen.
            cancel(&scene, &id).unwrap();
            cancel(&scene, &id).unwrap();
            running.service().wish(&id);
            halt.go();
            let end = scene.rests(&id);
            let names = || scene.names();
            match end {
                TransferState::Completed => {
                    assert_eq!((names().as_slice(), scene.received("a.csv")), (["a.csv".to_owned()].as_slice(), pattern(300_000)))
                }
                TransferState::Cancelled => {
                    scene.until("nothing unfinished is left", || {
                        names().is_empty() || (names() == ["a.csv"] && scene.received("a.csv") == pattern(300_000))
                    });
                }
                other => panic!("{what}: {other}: {:#?}", scene.history(&id)),
            }
            let user = if end == TransferState::Completed { "Resolved" } else { "Canceled" };
            let closed = [(TicketKind::User, user.to_owned()), (TicketKind::Audit, "Closed".to_owned())];
            scene.until("the tickets are told", || scene.tickets(&id) == closed);
            scene.until("people are told", || text(&notices).lines().count() == 1);
            // One who is late hears how it ended, and changes nothing.
            match (end, cancel(&scene, &id)) {
                (TransferState::Cancelled, Ok(shown)) => assert_eq!(shown.transfer.state, end),
                (TransferState::Completed, Err(error)) => assert!(error.message.contains("is completed"), "{what}: {error}"),
                (_, other) => panic!("{what}: {end}, then {other:?}"),
            }
            running.stop();
            assert_eq!(scene.state(&id), end, "{what}");
            assert_eq!(text(&notices).lines().count(), 1, "{what}");
            assert_eq!(scene.runtime.block_on(scene.store.slots(None)).unwrap(), [], "{what}");
            let states = scene.audited(&id).iter().filter(|event| *event == "state").count();
            assert_eq!(states, 2, "{what}: under way, then its end, once");
            ends.push((step, over, end));
        }
    }
    // Until the file has its name a cancel is obeyed; what comes after is the tail, which runs to its end.
    let named = STEPS.iter().position(|step| *step == "FinishTransfer").unwrap();
    for (step, over, end) in ends {
        let at = STEPS.iter().position(|other| *other == step).unwrap();
        if at < named || (at == named && !over) {
            assert_eq!(end, TransferState::Cancelled, "{step} {over}");
        }
    }
}

// SEMANTICS S85: "A clock that is set, by an hour either way or to 1970, at any step of a transfer of the service neither fails nor
// doubles it, nor does it keep a message waiting."
// E5. Mutations: a session that is too late ends the execution instead of being minted anew; a message waits for a time beyond
// the longest pause (`farthest` in the outbox).
#[test]
fn a_clock_that_is_set_at_any_step_neither_fails_a_transfer_nor_lengthens_anything() {
    let to_1970 = -Timestamp::now().as_second() / 3_600;
    for hours in [1, -1, to_1970] {
        for step in STEPS {
            let what = format!("{hours} h at {step}");
            let mut scene = Scene::new();
            let clock = SetClock::new();
            scene.settings.clock = clock.clone();
            scene.bucket.put("a.csv", pattern(300_000));
            let id = scene.submit("a.csv");
            let halt = Halt::at(&mut scene, step, false);
            let running = scene.start();
            halt.wait();
            clock.set_ahead(hours);
            halt.go();
            assert_eq!(scene.rests(&id), TransferState::Completed, "{what}: {:#?}", scene.history(&id));
            assert_eq!(scene.received("a.csv"), pattern(300_000), "{what}");
            assert_eq!(scene.names(), ["a.csv"], "{what}");
            assert_eq!(scene.request(&id).run, 1, "{what}");
            let closed = [(TicketKind::User, "Resolved".to_owned()), (TicketKind::Audit, "Closed".to_owned())];
            scene.until("the tickets are told", || scene.tickets(&id) == closed);
            running.stop();
        }
    }
}
