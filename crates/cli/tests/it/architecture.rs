//! The invariants of ARCHITECTURE.md that can be read off the sources: who may use whom, and which words may stand where.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Which crates of this workspace each one may use, without its tests.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("api", &["model"]),
    ("integrations", &["model"]),
    ("transfer", &["model"]),
    ("store", &["model"]),
    ("app", &["integrations", "model", "store", "transfer", "workflow"]),
    ("runtime", &["app", "integrations", "model", "store", "transfer", "workflow"]),
    ("server", &["api", "app", "model", "runtime", "store"]),
    ("cli", &["api", "app", "model", "runtime", "server", "store", "transfer", "workflow"]),
    ("testkit", &[]),
    ("workflow", &[]),
];

/// The part of `transfer` that decides by capabilities.
const PROTOCOL_BLIND: &[&str] = &[
    "src/engine",
    "src/plan.rs",
    "src/pool.rs",
    "src/sheet.rs",
    "src/port.rs",
    "src/rehearse",
    "src/budget.rs",
    "src/limit.rs",
    "src/meter.rs",
    "src/retry.rs",
    "src/digest.rs",
];

const LONGEST_FILE: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn krate(name: &str) -> PathBuf {
    root().join("crates").join(name)
}

/// Every Rust file below a directory, or the file itself.
pub fn sources(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(place).unwrap_or_else(|e| panic!("{}: {e}", place.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Path below the workspace, for messages.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The code of a file with its line numbers: comments are left out, and so are the tests at its end.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = read(path);
    let is_test = path.file_stem().and_then(|s| s.to_str()).is_some_and(|stem| stem.ends_with("tests"));
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate().take_while(|(_, line)| !is_test && line.trim() != "#[cfg(test)]") {
        let line = if line.trim_start().starts_with("//") { "" } else { line.split(" // ").next().unwrap_or(line) };
        lines.push((index + 1, line.to_owned()));
    }
    lines
}

/// Lines of code below `places` that `wrong` objects to.
fn offences(places: impl IntoIterator<Item = PathBuf>, wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let files = places.into_iter().flat_map(|place| sources(&place));
    let lines = files.flat_map(|file| code(&file).into_iter().map(move |(number, line)| (file.clone(), number, line)));
    lines.filter(|(_, _, line)| wrong(line)).map(|(file, number, line)| format!("{}:{number}: {}", shown(&file), line.trim())).collect()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// The names in a section of a Cargo.toml.
fn section(manifest: &str, name: &str) -> Vec<String> {
    let body = manifest.split(&format!("\n[{name}]\n")).nth(1).unwrap_or("");
    let lines = body.lines().take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| Some(line.split(['.', ' ', '=']).next()?.to_owned())).filter(|n| !n.is_empty() && !n.starts_with('#')).collect()
}

fn manifests() -> BTreeMap<String, String> {
    let directories = std::fs::read_dir(root().join("crates")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir());
    directories.map(|p| (p.file_name().unwrap().to_str().unwrap().to_owned(), read(&p.join("Cargo.toml")))).collect()
}

#[test]
fn crates_use_each_other_in_one_direction() {
    let manifests = manifests();
    let ours: Vec<&str> = manifests.keys().map(String::as_str).collect();
    for (name, manifest) in &manifests {
        let Some((_, allowed)) = DIRECTIONS.iter().find(|(known, _)| known == name) else {
            panic!("crates/{name} has no place yet: give it one here and in ARCHITECTURE.md");
        };
        for kind in ["dependencies", "build-dependencies"] {
            for used in section(manifest, kind).iter().filter(|used| ours.contains(&used.as_str())) {
                assert!(allowed.contains(&used.as_str()), "{name} must not use {used}: see ARCHITECTURE.md for the direction");
            }
        }
        for used in section(manifest, "dev-dependencies").iter().filter(|used| ours.contains(&used.as_str())) {
            assert!(used == "testkit" || allowed.contains(&used.as_str()), "the tests of {name} must not use {used}");
        }
    }
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let workspace = read(&root().join("Cargo.toml"));
    assert!(workspace.contains("unsafe_code = \"forbid\"") && workspace.contains("todo = \"deny\""));
    for (name, manifest) in manifests() {
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} does not take the lints, so unsafe is not forbidden there");
    }
}

#[test]
fn the_engine_names_no_protocol() {
    let places = PROTOCOL_BLIND.iter().map(|part| krate("transfer").join(part));
    let names_one = |line: &str| {
        let line = line.to_lowercase();
        line.contains("ftp") || line.contains("protocol::") || words(&line).any(|word| ["s3", "ssh", "aws", "openssh"].contains(&word))
    };
    // The one crypto provider happens to carry the name.
    let found = offences(places, |line| names_one(&line.replace("aws_lc_rs", "")));
    assert!(found.is_empty(), "decide by capabilities instead:\n{}", found.join("\n"));
}

#[test]
fn the_transfer_crate_knows_no_database_and_no_ticket_system() {
    let uses = section(&manifests()["transfer"], "dependencies");
    for foreign in ["rusqlite", "store", "app", "clap", "axum"] {
        assert!(!uses.iter().any(|used| used == foreign), "transfer uses {foreign}");
    }
    let found = offences([krate("transfer").join("src")], |line| {
        words(&line.to_lowercase()).any(|word| ["sqlite", "rusqlite", "database", "servicenow", "ticket", "sql"].contains(&word))
    });
    // TLS calls what resumes a session a ticket.
    let found: Vec<_> = found.into_iter().filter(|place| !place.starts_with("crates/transfer/src/ftp/tls.rs")).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn types_of_the_aws_sdk_stay_in_two_folders() {
    let inside = [("transfer", "src/s3"), ("integrations", "src/sqs")];
    for (name, manifest) in manifests() {
        let sdk = section(&manifest, "dependencies").into_iter().filter(|used| used.starts_with("aws-") && used != "aws-lc-rs");
        assert!(inside.iter().any(|(krate, _)| *krate == name) || sdk.count() == 0, "{name} uses the AWS SDK");
    }
    for (name, folder) in inside {
        let inside = krate(name).join(folder);
        let outside = sources(&krate(name).join("src")).into_iter().filter(|path| !path.starts_with(&inside));
        let sdk = |line: &str| ["aws_config", "aws_sdk", "aws_smithy", "aws_types"].iter().any(|name| line.contains(name));
        let found = offences(outside, sdk);
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

#[test]
fn the_use_cases_start_nothing_and_wait_for_nothing() {
    let waits = ["tokio::spawn", "spawn_blocking", "JoinSet", "thread::", "sleep", "interval(", "timeout(", "Instant::now", "SystemTime"];
    let found = offences([krate("app").join("src")], |line| waits.iter().any(|word| line.contains(word)));
    assert!(found.is_empty(), "that is the runtime's work:\n{}", found.join("\n"));
}

#[test]
fn the_interpreter_is_a_function_of_what_it_is_given() {
    let world = [
        "::now(",
        "SystemTime",
        "Instant",
        "std::fs",
        "std::io::stdin",
        "std::net",
        "std::env",
        "thread::",
        " rand::",
        "async fn",
        "RandomState",
    ];
    let outside = |line: &str| world.iter().any(|word| line.contains(word));
    // The executor beside it is what gives these: it runs tasks, reads clocks and waits.
    let source = krate("workflow").join("src");
    let pure = sources(&source).into_iter().filter(|path| !path.starts_with(source.join("executor")));
    let found = offences(pure, outside);
    let drives = offences([source.join("interpreter"), source.join("definition"), source.join("trial")], |line| line.contains("executor"));
    assert!(drives.is_empty(), "the interpreter does not know who drives it:\n{}", drives.join("\n"));
    assert!(found.is_empty(), "time, chance and data are given from outside:\n{}", found.join("\n"));
}

#[test]
fn keys_become_paths_in_one_place() {
    let crates = || manifests().into_keys().filter(|name| name != "model" && name != "testkit").map(|name| krate(&name).join("src"));
    let resolved = offences(crates(), |line| line.contains("RemotePath::resolve("));
    assert_eq!(resolved.len(), 1, "{resolved:#?}");
    assert!(resolved[0].starts_with("crates/app/src/transfers.rs"), "{resolved:?}");
    // What people typed is read by `Location`, what was stored by the store; nobody else makes a path from text.
    let read = offences(crates(), |line| line.contains("RemotePath::from_user("));
    assert!(read.iter().all(|place| place.starts_with("crates/store/src/sqlite/")), "{read:#?}");
}

#[test]
fn every_write_to_the_store_is_a_batch() {
    for (name, manifest) in manifests() {
        let uses = section(&manifest, "dependencies").iter().any(|used| used == "rusqlite");
        assert_eq!(uses, name == "store", "only the store speaks to the database, not {name}");
    }
    // Everything else that the store offers reads.
    let reads = [
        "open",
        "open_with",
        "open_in_memory",
        "close",
        "transfer",
        "transfers",
        "unfinished_by_identity",
        "files",
        "file",
        "file_by_key",
        "counts",
        "receipts",
        "delivery",
        "deliveries",
        "lease",
        "leases",
        "destination",
        "execution",
        "execution_with_frames",
        "open_executions",
        "executions",
        "history",
        "definition",
        "request",
        "requests",
        "queue",
        "queues",
        "held",
        "connectors_held_for",
        "idempotency",
        "session",
        "grant",
        "slots",
        "outbox_message",
        "due_outbox",
        "next_outbox",
        "outbox",
        "ticket",
        "ticket_by_correlation",
        "tickets",
        "ticket_notes",
        "connector",
        "connectors",
        "source",
        "sources",
        "secret",
        "secrets",
        "audit",
        "unsealed",
        "last_seal",
        "seals",
        "preferences",
        "exchanges",
        "learning",
        "cached_object",
        "cached_objects",
        "integrity_check",
        "backup",
        "restore",
    ];
    let offered = offences([krate("store").join("src")], |line| line.trim_start().starts_with("pub async fn "));
    let name = |line: &String| line.split("pub async fn ").nth(1).and_then(|rest| rest.split(['(', '<']).next()).unwrap_or("").to_owned();
    let writers: Vec<String> = offered.iter().map(name).filter(|name| !reads.contains(&name.as_str())).collect();
    assert_eq!(writers, ["commit"], "a new read is added to the list above, a new write becomes a mutation");
}

#[test]
fn passwords_are_read_in_few_places() {
    let allowed = [
        "app/src/secrets.rs",
        "runtime/src/open.rs",
        "runtime/src/secret.rs",
        "runtime/src/rclone/mod.rs",
        "integrations/src/sqs/connect.rs",
        "transfer/src/sftp/auth.rs",
        "transfer/src/sftp/keys.rs",
        "transfer/src/ftp/connect.rs",
        "transfer/src/road/socks.rs",
        "transfer/src/road/connect.rs",
    ];
    let crates = manifests().into_keys().filter(|name| name != "testkit").map(|name| krate(&name).join("src"));
    let found = offences(crates, |line| line.contains(".expose()") && !line.contains("customer"));
    let strange: Vec<_> = found
        .iter()
        .filter(|place| !place.starts_with("crates/model/") && !place.starts_with("crates/transfer/src/s3/connect.rs"))
        .filter(|place| !allowed.iter().any(|file| place.starts_with(&format!("crates/{file}"))))
        .collect();
    assert!(strange.is_empty(), "{strange:#?}");
    let credential = read(&krate("model").join("src/location.rs"));
    let derived = credential.split("pub struct Credential(").next().and_then(|text| text.rsplit("#[derive(").next()).unwrap();
    assert!(!derived.contains("Serialize") && !derived.contains("Debug"), "a secret must not be printed or stored: {derived}");
}

#[test]
fn every_file_says_what_it_is_for_and_stays_readable() {
    for file in sources(&root().join("crates")) {
        let text = read(&file);
        assert!(text.starts_with("//! "), "{} does not open with a line of //!", shown(&file));
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{} has {lines} lines; look for the seam", shown(&file));
        let vague = ["common", "util", "utils", "helper", "helpers", "misc", "manager", "base"];
        for part in file.strip_prefix(root()).unwrap().iter().filter_map(|part| part.to_str()) {
            let stem = part.strip_suffix(".rs").unwrap_or(part);
            assert!(!vague.contains(&stem), "{}: {stem} says nothing about what is in it", shown(&file));
        }
    }
}

#[test]
fn every_error_class_has_a_page_and_every_page_a_class() {
    let mut pages: Vec<String> = std::fs::read_dir(root().join("docs/errors"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".md").map(str::to_owned))
        .collect();
    let mut classes: Vec<String> = model::ErrorClass::ALL.iter().map(|class| class.name().to_owned()).collect();
    pages.sort();
    classes.sort();
    assert_eq!(pages, classes);
}

/// Links between the pages, and from the pages to the sources.
#[test]
fn every_link_in_the_documentation_leads_somewhere() {
    let mut pages = vec![root().join("docs")];
    let mut files: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(|name| root().join(name)).to_vec();
    while let Some(directory) = pages.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pages.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                files.push(path);
            }
        }
    }
    for file in files {
        let text = read(&file);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap_or(target);
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(file.parent().unwrap().join(target).exists(), "{} links to {target}, which is not there", shown(&file));
        }
    }
}
