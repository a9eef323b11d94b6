//! An entry point for the fuzzer in `fuzz/` and for the test that feeds the same inputs: templates that a person or a
//! partner wrote, and keys that anybody could have put into a bucket. Nobody else calls it.

use crate::{FileNumber, NameTemplate, ObjectKey, RemotePath, TempName, TemplateInput, TransferId};

/// The first line is a template, the rest a key. Whatever they are, the name stays below the directory.
pub fn templates(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (template, key) = text.split_once('\n').unwrap_or((&text, "orders/2026/a.csv"));
    let root = RemotePath::from_user("/inbox").expect("a valid path");
    let now = jiff::Timestamp::from_second(1_795_000_000).expect("a time in 2026");
    if let (Ok(template), Ok(key)) = (NameTemplate::parse(template), ObjectKey::new(key)) {
        for prefix in ["", "orders/"] {
            let Ok(path) = RemotePath::resolve(&root, &template, &TemplateInput::new(&key, prefix, Some("v1"), now)) else { continue };
            is_below(&root, &path);
            if let Ok(temp) = TempName::default().path(&path, &TransferId::from_random([1; 10]), 1, FileNumber(2), 3, 4) {
                is_below(&root, &temp);
                assert_ne!(temp, path);
            }
        }
    }
    if let Ok(temp) = TempName::parse(template) {
        let finished = root.join("a.csv").expect("a valid name");
        let id = TransferId::from_random([1; 10]);
        if let Ok(scratch) = temp.scratch(&root, &id, 5) {
            is_below(&root, &scratch);
            assert_eq!(temp.scratch_of(scratch.name()).as_deref(), Some(id.short()));
        }
        assert!(temp.scratch_of(key).is_none_or(|unique| unique.len() == 12));
        let Ok(path) = temp.path(&finished, &id, 1, FileNumber(2), 3, 4) else { return };
        is_below(&root, &path);
        assert_eq!(temp.scratch_of(path.name()), None);
        let parts = temp.read(path.name()).expect("we know our own names");
        assert_eq!((parts.attempt, parts.epoch), (3, 4));
    }
}

fn is_below(root: &RemotePath, path: &RemotePath) {
    let text = path.as_str();
    assert!(path.starts_with(root) && text.len() > root.as_str().len());
    assert!(!text.contains(['\0', '\r', '\n']));
    assert!(text.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | "..") && segment.len() <= 255), "{text}");
}
