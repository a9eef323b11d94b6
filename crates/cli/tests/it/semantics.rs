//! docs/SEMANTICS.md is held by tests: every promise is quoted, word for word, directly above a test that holds it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::architecture::{read, sources};

/// `**S7.** The sentence, over as many lines as it takes.` up to an empty line.
fn promises(page: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for paragraph in page.split("\n\n") {
        let Some((id, sentence)) = paragraph.trim().strip_prefix("**S").and_then(|rest| rest.split_once(".**")) else { continue };
        let sentence = sentence.split_whitespace().collect::<Vec<_>>().join(" ");
        let earlier = found.insert(format!("S{id}"), sentence);
        assert!(earlier.is_none(), "S{id} stands there twice");
    }
    found
}

/// The quotations of a file, each with whether a test follows it. A quotation may go on over further comment lines.
fn quotations(text: &str) -> Vec<(String, String, bool)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let Some((id, begin)) = lines[at].strip_prefix("// SEMANTICS ").and_then(|rest| rest.split_once(": \"")) else {
            at += 1;
            continue;
        };
        let mut sentence = begin.to_owned();
        while !sentence.ends_with('"') {
            at += 1;
            let more =
                lines.get(at).and_then(|line| line.strip_prefix("// ")).unwrap_or_else(|| panic!("{id} is not closed by a quotation mark"));
            sentence.push(' ');
            sentence.push_str(more);
        }
        at += 1;
        let next = lines[at..].iter().find(|line| !line.starts_with("//") && !line.starts_with("#[case"));
        let tested = next.is_some_and(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
        found.push((id.to_owned(), sentence.trim_end_matches('"').to_owned(), tested));
    }
    found
}

#[test]
fn every_promise_is_quoted_above_a_test_that_holds_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let promised = promises(&read(&root.join("docs/SEMANTICS.md")));
    assert!(promised.len() >= 20, "{} promises were understood", promised.len());
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in sources(&root.join("crates")) {
        for (id, sentence, tested) in quotations(&read(&file)) {
            let place = file.display();
            assert!(tested, "{place}: {id} is not directly above a test");
            let promise = promised.get(&id).unwrap_or_else(|| panic!("{place}: {id} is not in docs/SEMANTICS.md"));
            assert_eq!(&sentence, promise, "{place}: {id} is quoted wrongly");
            held.entry(id).or_default().push(place.to_string());
        }
    }
    let bare: Vec<_> = promised.keys().filter(|id| !held.contains_key(*id)).collect();
    assert!(bare.is_empty(), "no test quotes {bare:?}");
}

#[test]
fn a_quotation_is_read_over_several_lines_and_must_stand_above_a_test() {
    let mark = "// SEMANTICS";
    let text = format!("{mark} S1: \"one\n// two.\"\n#[test]\nfn x() {{}}\n{mark} S2: \"three.\"\nfn y() {{}}\n");
    assert_eq!(quotations(&text), [("S1".into(), "one two.".into(), true), ("S2".into(), "three.".into(), false)]);
    assert_eq!(promises("# x\n\n**S3.** a\nb.\n\nnot one\n"), BTreeMap::from([("S3".to_owned(), "a b.".to_owned())]));
}
