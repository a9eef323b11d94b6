//! The plan of one file: a pure function of what was asked, what is pinned, what the server can do and what an
//! earlier attempt left. It can fail, and it says what the proof will cost.

use model::{Algorithm, ByteCount, DigestSet, Grade, Publish, Strategy, Thresholds, Verify};

use crate::{Capabilities, Error, ErrorKind, Result, Subject};

/// Files from this size may use several connections where offset writes work.
pub const PARALLEL_FROM: u64 = 64 << 20;
/// From so many connections on the line is far, where one of them has little in flight: smaller files use them all too, and
/// whatever their number, each connection always has something to carry.
pub const FAR_CONNECTIONS: u64 = 3;
pub const FAR_PARALLEL_FROM: u64 = 8 << 20;
/// `auto` reads back whole files up to this size, above it samples.
pub const READ_BACK_UP_TO: u64 = 1 << 30;

#[derive(Debug, Clone)]
pub struct Question<'a> {
    pub size: u64,
    pub verify: Verify,
    pub digests: DigestSet,
    pub publish: Publish,
    pub capabilities: &'a Capabilities,
    pub thresholds: Thresholds,
    pub connections: u64,
    pub resumed: bool,
    /// An earlier attempt ended in a mismatch: read everything back this time, where that is possible at all.
    pub after_mismatch: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub strategy: Strategy,
    /// Lanes that may write this file at the same time.
    pub connections: u64,
    pub grade: Grade,
    /// Digest compared for `server-hash`.
    pub server_hash: Option<Algorithm>,
    pub digests: DigestSet,
    /// Bytes that the proof reads from the destination.
    pub proof_bytes: u64,
    pub notes: Vec<String>,
}

/// The size from which on a file travels over all of so many connections.
pub fn parallel_from(connections: u64) -> u64 {
    if connections >= FAR_CONNECTIONS { FAR_PARALLEL_FROM } else { PARALLEL_FROM }
}

/// Decides how one file travels and how it is proved.
pub fn plan(question: &Question<'_>) -> Result<Plan> {
    let Question { size, capabilities, .. } = *question;
    let strategy = question.thresholds.strategy(ByteCount(size));
    let wide = capabilities.offset_writes && size >= parallel_from(question.connections);
    let connections = if wide { question.connections.max(1) } else { 1 };
    let mut notes = Vec::new();

    let hash = [Algorithm::Sha256, Algorithm::Md5].into_iter().find(|a| capabilities.hashes.contains(a));
    let reachable = |grade: Grade| match grade {
        Grade::ServerHash => hash.is_some(),
        Grade::ReadBack | Grade::Sampled => capabilities.read,
        Grade::Acknowledged => capabilities.confirms_writes,
        // A file written in parallel or resumed may have the right size and holes.
        Grade::Size => connections == 1 && !question.resumed,
        Grade::None => true,
    };
    let minimum = match question.verify {
        Verify::Auto => None,
        Verify::AtLeast(grade) => Some(grade),
    };
    let grade = match minimum {
        // Never less than what was asked for, also the second time.
        _ if question.after_mismatch && hash.is_some() && (!capabilities.read || minimum == Some(Grade::ServerHash)) => Grade::ServerHash,
        _ if question.after_mismatch && capabilities.read && minimum != Some(Grade::ServerHash) => Grade::ReadBack,
        None if hash.is_some() => Grade::ServerHash,
        None if capabilities.read && size <= READ_BACK_UP_TO => Grade::ReadBack,
        None => [Grade::Sampled, Grade::Acknowledged, Grade::Size].into_iter().find(|g| reachable(*g)).unwrap_or(Grade::None),
        // The weakest grade that satisfies the minimum and can be had.
        Some(least) => [Grade::None, Grade::Size, Grade::Acknowledged, Grade::Sampled, Grade::ReadBack, Grade::ServerHash]
            .into_iter()
            .find(|g| g.satisfies(least) && reachable(*g))
            .ok_or_else(|| {
                Error::new(ErrorKind::DestDenied, "prove the delivery as asked with", Subject::Setting(format!("--verify {least}")))
                    .because(
                        "this server neither computes digests nor lets us read our own files; --verify acknowledged or size would work",
                    )
            })?,
    };
    if minimum == Some(Grade::Size) && grade == Grade::Acknowledged {
        notes.push("written in parallel or resumed, so the proof is acknowledged rather than size".to_owned());
    }
    if minimum.is_none() && grade.strength() < Grade::Sampled.strength() {
        notes.push("this server does not let us read our own files, so the content was not looked at".to_owned());
    }
    let mut digests = question.digests;
    let server_hash = (grade == Grade::ServerHash).then_some(hash).flatten();
    match server_hash {
        Some(Algorithm::Sha256) => digests.sha256 = true,
        Some(Algorithm::Md5) => digests.md5 = true,
        _ => {}
    }
    let proof_bytes = match grade {
        Grade::ReadBack => size,
        Grade::Sampled => sampled_bytes(size),
        _ => 0,
    };
    if question.publish == Publish::InPlace {
        notes.push("written in place: a reader could have seen an incomplete file".to_owned());
    }
    Ok(Plan { strategy, connections, grade, server_hash, digests, proof_bytes, notes })
}

/// About what `sampled` reads of a file, with ranges of the default size.
fn sampled_bytes(size: u64) -> u64 {
    let ranges = size.div_ceil(10 << 20).max(1);
    (ranges * crate::engine::SAMPLE_BYTES_PER_RANGE).min(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoClobber;

    fn able() -> Capabilities {
        Capabilities {
            offset_writes: true,
            confirms_writes: true,
            continues: false,
            read: true,
            sync: true,
            no_clobber: NoClobber::Atomic,
            atomic_replace: true,
            exact_names: true,
            set_times: true,
            set_mode: true,
            hashes: vec![],
            multiplex: 16,
            max_write: 1 << 17,
            free_space: true,
        }
    }

    fn ask<'a>(size: u64, verify: &str, capabilities: &'a Capabilities) -> Question<'a> {
        Question {
            size,
            verify: verify.parse().unwrap(),
            digests: DigestSet::default(),
            publish: Publish::Rename,
            capabilities,
            thresholds: Thresholds::default(),
            connections: 4,
            resumed: false,
            after_mismatch: false,
        }
    }

    #[test]
    fn auto_takes_the_best_affordable_proof() {
        let able = able();
        assert_eq!(plan(&ask(1 << 20, "auto", &able)).unwrap().grade, Grade::ReadBack);
        assert_eq!(plan(&ask(2 << 30, "auto", &able)).unwrap().grade, Grade::Sampled);
        let hashing = Capabilities { hashes: vec![Algorithm::Sha256], ..able.clone() };
        assert_eq!(plan(&ask(2 << 30, "auto", &hashing)).unwrap().grade, Grade::ServerHash);
        let blind = Capabilities { read: false, ..able };
        assert_eq!(plan(&ask(1 << 20, "auto", &blind)).unwrap().grade, Grade::Acknowledged);
    }

    // SEMANTICS S8: "A file that was written over several connections or resumed never earns the grade `size`."
    #[test]
    fn a_parallel_or_resumed_file_never_earns_size() {
        let able = able();
        assert_eq!(plan(&ask(1 << 20, "size", &able)).unwrap().grade, Grade::Size);
        assert_eq!(plan(&ask(64 << 20, "size", &able)).unwrap().grade, Grade::Acknowledged);
        let resumed = Question { resumed: true, ..ask(1 << 20, "size", &able) };
        assert_eq!(plan(&resumed).unwrap().grade, Grade::Acknowledged);
    }

    #[test]
    fn a_grade_that_cannot_be_had_is_refused_before_the_first_byte() {
        let blind = Capabilities { read: false, ..able() };
        assert_eq!(plan(&ask(1, "read-back", &blind)).unwrap_err().kind, ErrorKind::DestDenied);
        assert_eq!(plan(&ask(1, "none", &blind)).unwrap().grade, Grade::None);
    }

    // SEMANTICS S7: "A grade named with `--verify` is the least that is accepted: a stronger one satisfies it, and one that the
    // server cannot give is refused before the first byte is sent."
    #[test]
    fn after_a_mismatch_no_weaker_grade_is_taken_than_the_one_asked_for() {
        let hashing = Capabilities { hashes: vec![Algorithm::Sha256], ..able() };
        let again = |verify| Question { after_mismatch: true, ..ask(1, verify, &hashing) };
        assert_eq!(plan(&again("server-hash")).unwrap().grade, Grade::ServerHash);
        assert_eq!(plan(&again("sampled")).unwrap().grade, Grade::ReadBack);
        assert_eq!(plan(&again("auto")).unwrap().grade, Grade::ReadBack);
    }

    #[test]
    fn a_server_hash_brings_its_digest_along() {
        let md5_only = Capabilities { hashes: vec![Algorithm::Md5], ..able() };
        let plan = plan(&ask(1, "server-hash", &md5_only)).unwrap();
        assert!(plan.digests.md5);
        assert_eq!(plan.server_hash, Some(Algorithm::Md5));
    }

    // Mutation: `parallel_from` knows one size.
    #[test]
    fn over_a_far_line_smaller_files_use_every_connection() {
        let able = able();
        let connections = |size, connections| plan(&Question { connections, ..ask(size, "auto", &able) }).unwrap().connections;
        assert_eq!((connections(32 << 20, 2), connections(64 << 20, 2)), (1, 2));
        assert_eq!((connections(32 << 20, 4), connections(4 << 20, 4)), (4, 1));
    }

    #[test]
    fn a_stream_only_server_gets_one_connection() {
        let stream = Capabilities { offset_writes: false, ..able() };
        assert_eq!(plan(&ask(1 << 30, "auto", &stream)).unwrap().connections, 1);
        assert_eq!(plan(&ask(1 << 30, "auto", &able())).unwrap().connections, 4);
    }
}
