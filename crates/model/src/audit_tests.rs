//! Whatever is done to the lines of an audit is found, and where.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::new(1_700_000_000 + second, 0).unwrap()
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32]).unwrap()
}

fn chain(name: &str, entries: u64, by: &str) -> Vec<String> {
    let (mut lines, mut last) = (Vec::new(), None);
    for number in 0..entries {
        let detail = Map::from_iter([("to".to_owned(), Value::from(format!("state {number}")))]);
        let line = Entry::after(name.to_owned(), last.take(), by, at(number as i64), "state", detail).line();
        last = Some((number + 1, hash(&line)));
        lines.push(line);
    }
    lines
}

fn head(lines: &[String], seq: usize) -> Head {
    let entry: Entry = serde_json::from_str(&lines[seq - 1]).unwrap();
    Head { chain: entry.chain, seq: entry.seq, hash: hash(&lines[seq - 1]) }
}

fn seals(of: Vec<Vec<Head>>) -> Vec<String> {
    let (mut lines, mut prev) = (Vec::new(), None);
    for (index, heads) in of.into_iter().enumerate() {
        let line = Seal::line(&key(), index as u64 + 1, at(60), prev.take(), heads).unwrap();
        prev = Some(hash(&line));
        lines.push(line);
    }
    lines
}

fn verify(seals: &[String], entries: &[String]) -> Report {
    let mut verifier = Verifier::default();
    seals.iter().for_each(|line| verifier.seal(line, |fingerprint| fingerprint == key().fingerprint()));
    entries.iter().for_each(|line| verifier.entry(line));
    verifier.finish()
}

/// Two chains of five and three entries, sealed twice; the last entry of the first is not sealed yet.
fn whole() -> (Vec<String>, Vec<String>) {
    let (a, b) = (chain("transfer:a", 5, "mia"), chain("transfer:b", 3, "mia"));
    let seals = seals(vec![vec![head(&a, 2), head(&b, 1)], vec![head(&a, 4), head(&b, 3)]]);
    (seals, [a, b].concat())
}

#[test]
fn what_is_whole_is_found_whole() {
    let (seals, entries) = whole();
    let report = verify(&seals, &entries);
    assert_eq!((report.chains, report.entries, report.seals, report.unsealed), (2, 8, 2, 1));
    assert!(report.problems.is_empty() && report.unknown_keys.is_empty(), "{report:?}");
}

fn first(report: &Report) -> (&str, u64) {
    let problem = report.problems.first().expect("something is wrong");
    (&problem.chain, problem.seq)
}

// SEMANTICS S82: "Whoever edits, removes, inserts or reorders an entry of the audit, or cuts off a sealed end, is found by
// `audit verify`, at that entry."
#[test]
fn an_edit_a_removal_an_insertion_and_a_change_of_order_are_found_where_they_are() {
    let (seals, entries) = whole();
    for at in 0..7 {
        // The chain's own place of line `at`.
        let (name, seq) = if at < 5 { ("transfer:a", at as u64 + 1) } else { ("transfer:b", at as u64 - 4) };
        let last = at == 4;

        let mut edited = entries.clone();
        edited[at] = edited[at].replacen("mia", "max", 1);
        if !last {
            let found = verify(&seals, &edited);
            // A sealed entry itself, or the one after it.
            assert!([(name, seq), (name, seq + 1)].contains(&first(&found)), "edit of {at}: {found:?}");
        }

        let mut removed = entries.clone();
        removed.remove(at);
        let found = verify(&seals, &removed);
        assert_eq!(last, found.problems.is_empty(), "only the unsealed end can be cut off unseen; {at}: {found:?}");

        let mut doubled = entries.clone();
        doubled.insert(at, entries[at].clone());
        assert_eq!(first(&verify(&seals, &doubled)), (name, seq), "insertion at {at}");

        if at != 4 && at != 7 {
            let mut swapped = entries.clone();
            swapped.swap(at, at + 1);
            assert!(!verify(&seals, &swapped).problems.is_empty(), "swap at {at}");
        }
    }
}

#[test]
fn every_changed_byte_of_a_sealed_line_is_found() {
    let (seals, entries) = whole();
    for line in 0..4 {
        for byte in (0..entries[line].len()).step_by(3) {
            let mut changed = entries.clone();
            let mut bytes = changed[line].clone().into_bytes();
            bytes[byte] ^= 1;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            changed[line] = text;
            assert!(verify(&seals, &changed).problem_count > 0, "byte {byte} of line {line}");
        }
    }
}

// SEMANTICS S83: "Who rewrites the records with all their hashes and seals is found by the copy of the seals that is kept elsewhere."
#[test]
fn a_whole_chain_rewritten_cut_or_gone_is_found_by_the_seals() {
    let (seals, entries) = whole();
    let b = &entries[5..];
    // All hashes are right again; only what was signed tells.
    let rewritten = verify(&seals, &[chain("transfer:a", 5, "max"), b.to_vec()].concat());
    assert_eq!(first(&rewritten), ("transfer:a", 2));
    assert!(rewritten.problems[0].what.contains("seal 1"), "{rewritten:?}");
    // Rewritten, and sealed once more by the service's own key: what was signed first stands. Mutation: the later seal replaces it.
    let forged = chain("transfer:a", 5, "max");
    let again = [vec![head(&forged, 2)], vec![head(&forged, 4)], vec![head(&forged, 5)]];
    let heads = [vec![head(&entries, 2), head(b, 1)], vec![head(&entries, 4), head(b, 3)]];
    let covered = verify(&self::seals([heads.to_vec(), again.to_vec()].concat()), &[forged, b.to_vec()].concat());
    assert!(covered.problems.iter().any(|found| found.what.contains("seals 1 and 3 speak of different entries")), "{covered:?}");
    assert!(covered.problems.iter().any(|found| found.what.contains("not the entry that seal 1 speaks of")), "{covered:?}");
    let cut = verify(&seals, &[entries[..3].to_vec(), b.to_vec()].concat());
    assert_eq!(first(&cut), ("transfer:a", 3));
    assert!(cut.problems[0].what.contains("the end is missing"), "{cut:?}");
    let gone = verify(&seals, b);
    assert_eq!(first(&gone), ("transfer:a", 4));
    assert!(gone.problems[0].what.contains("the whole chain is missing"), "{gone:?}");
}

#[test]
fn seals_are_whole_follow_each_other_and_are_signed_by_whom_is_trusted() {
    let (seals, entries) = whole();
    assert_eq!(first(&verify(&seals[1..], &entries)), ("seals", 2), "the first is missing");
    let swapped = [seals[1].clone(), seals[0].clone()];
    assert_eq!(first(&verify(&swapped, &entries)), ("seals", 2));
    let elsewhere = Seal::line(&key(), 2, at(60), Some(hash("another seal")), vec![head(&entries, 4)]).unwrap();
    let found = verify(&[seals[0].clone(), elsewhere], &entries);
    assert!(first(&found) == ("seals", 2) && found.problems[0].what.contains("does not follow"), "{found:?}");
    let changed = [seals[0].replacen("transfer:b", "transfer:c", 1), seals[1].clone()];
    assert!(verify(&changed, &entries).problems[0].what.contains("signature"));
    // A receipt's signature is none of a seal.
    assert!(Seal::read(&key().sign_line("{\"v\":1}").unwrap()).is_err());

    let other = SigningKey::from_seed(&[8; 32]).unwrap();
    let forged = Seal::line(&other, 1, at(60), None, vec![head(&entries, 2)]).unwrap();
    assert_eq!(verify(&[forged], &entries).unknown_keys, [other.fingerprint()]);
}
