//! Courses on which the engine was once not as the map has it, each with what was wrong, at every moment near the one that
//! showed it.

use model::{Grade, IfExists, Publish, Verify};

use super::script::Event;
use super::world::Act;
use super::{Delivery, RANGE, Server, Step, played};
use crate::failing::Break;

fn able() -> Server {
    Server {
        streams: false,
        continues: true,
        read: true,
        hashes: false,
        syncs: true,
        atomic_replace: true,
        atomic_rename: true,
        exact_names: true,
    }
}

fn delivery() -> Delivery {
    Delivery {
        keys: [true, false, false],
        policy: IfExists::Fail,
        publish: Publish::Rename,
        verify: Verify::Auto,
        connections: Some(1),
        runs: Vec::new(),
    }
}

/// One delivery of one file, with one event at each of its operations in turn.
fn at_every_operation(server: &Server, size: usize, asked: &Delivery, event: &Event) {
    for at in 0..48 {
        one_course(server, size, asked, vec![vec![(at, event.clone())]]);
    }
}

fn one_course(server: &Server, size: usize, asked: &Delivery, runs: Vec<Vec<(u64, Event)>>) {
    let asked = Delivery { runs, ..asked.clone() };
    let outcome = played(server.clone(), [size, 0, 0], vec![Step::Deliver(asked.clone())]);
    assert!(outcome.is_ok(), "{:?}: {}", asked.runs, outcome.unwrap_err());
}

// After a mismatch the file was read back where the server's digest had been asked for.
#[test]
fn a_changed_byte_under_server_hash_is_answered_by_server_hash() {
    let asked = Delivery { verify: Verify::AtLeast(Grade::ServerHash), ..delivery() };
    at_every_operation(&Server { hashes: true, ..able() }, RANGE + 1, &asked, &Event::Flip);
}

// A range whose read-back was refused once and which was compared later did not count as compared.
#[test]
fn a_range_that_is_compared_later_counts_as_compared() {
    at_every_operation(&able(), 2 * RANGE + 1, &delivery(), &Event::Break(Break::Refused));
}

// A cut copy in place met its own unfinished file in the same run, and took it for somebody else's.
#[test]
fn a_cut_copy_in_place_goes_on_with_its_own_file() {
    for streams in [false, true] {
        for (size, policy) in [(0, IfExists::Skip), (1000, IfExists::Fail), (2 * RANGE + 1, IfExists::Fail)] {
            let asked = Delivery { publish: Publish::InPlace, policy, ..delivery() };
            at_every_operation(&Server { streams, ..able() }, size, &asked, &Event::World(Act::Disconnect));
        }
    }
}

// Every way to die, at every operation, for a file of ranges and for a stream.
#[test]
fn a_death_at_every_operation_is_survived() {
    for streams in [false, true] {
        for after in [false, true] {
            at_every_operation(&Server { streams, ..able() }, 3 * RANGE + 7, &delivery(), &Event::Kill { after });
        }
    }
}

// The partner takes the file after a process died that had published it and before the next one looks. Aimed at: the intent
// is not stored before the rename; a temporary file that is missing means that the file has to be sent.
#[test]
fn what_was_taken_after_a_death_is_not_sent_again() {
    for streams in [false, true] {
        for size in [1000, 2 * RANGE + 1] {
            for at in 0..48 {
                let asked = Delivery { policy: IfExists::Replace, ..delivery() };
                let runs = vec![vec![(at, Event::Kill { after: true })], vec![(0, Event::World(Act::Take { key: 0 }))]];
                one_course(&Server { streams, ..able() }, size, &asked, runs);
            }
        }
    }
}
