//! Cases F1 to F5: names that are commands, ways out, or not what a server stores.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;

use model::{FileState, RemotePath};
use testkit::ftp::{FtpProgram, FtpSecurity, FtpServerOptions};
use testkit::ftp_sandbox::{Behaviour, Names};
use transfer::ErrorKind;

use super::{Cargo, Harbour, Voyage, able, each, resuming};

// F1. Mutation: `RemotePath::join` lets control characters through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_a_command_is_refused_before_anything_is_sent() {
    let voyage = Voyage::new(able(), &[("a", 10)]).await;
    let below = RemotePath::from_user("/in").unwrap();
    for control in (0..0x20).chain(0x7f..0xa0).filter_map(char::from_u32).filter(|control| *control != '\t') {
        for name in [format!("a{control}DELE victim"), format!("a\r\nDELE victim{control}"), control.to_string()] {
            let error = transfer::Error::from(below.join(&name).unwrap_err());
            assert_eq!(error.kind, ErrorKind::DestNameInvalid, "{name:?}");
            let text = transfer::error::chain(&error);
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert!(RemotePath::from_user(&format!("/in/{name}")).is_err(), "{name:?}");
        }
    }
    assert_eq!((voyage.proxy.accepted(), voyage.server.recorder().operations()), (0, 0));
}

/// What is to be delivered, on every server: names that shells, patterns, listings and servers take for something else.
const ODD: [&str; 24] = [
    "-rf",
    "--",
    " leading space",
    "trailing space ",
    "in  the middle",
    "tab\tin it",
    "\ttab",
    "~",
    "~root",
    "star*",
    "[a]",
    "question?",
    "back\\slash",
    "single'quote",
    "double\"quote",
    "semi;colon",
    "dollar$HOME",
    "percent%2e%2e",
    "NFC \u{e9}",
    "NFD e\u{301}",
    "emoji \u{1f680}",
    "...",
    "drwxr-xr-x 2 0 0 4096 Jan 01 00:00 x",
    "type=dir;size=0; x",
];

fn names_in(directory: &std::path::Path) -> BTreeSet<Vec<u8>> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect()
}

/// Each key is there under exactly its name, or was refused with a class that says so. Returns the refused ones.
fn judge(cargo: &Cargo, which: &str) -> Vec<(String, ErrorKind, String)> {
    let mut refused = Vec::new();
    let mut allowed = BTreeSet::new();
    for key in &cargo.keys {
        let kept = cargo.kept(key);
        match (kept.finished, kept.failed) {
            (Some(finished), _) => {
                assert_eq!(finished.state, FileState::Delivered, "{which}: {key:?}");
                allowed.insert(key.as_bytes().to_vec());
                assert!(cargo.there(key) == cargo.source.bytes(key).map(|bytes| bytes.to_vec()), "{which}: {key:?} is not whole");
            }
            (None, Some((kind, text, temp))) => {
                let clear = matches!(kind, ErrorKind::DestNameInvalid | ErrorKind::DestDenied | ErrorKind::DestPublishFailed);
                // A directory has this name: to some servers it is the home.
                let home = *key == "~" && kind == ErrorKind::DestExists;
                assert!(clear || home, "{which}: {key:?}: {kind:?} {text}");
                // A verified file waits under its own temporary name.
                allowed.extend(temp.map(|temp| temp.name().as_bytes().to_vec()));
                refused.push(((*key).to_owned(), kind, text));
            }
            (None, None) => panic!("{which}: {key:?} has no outcome"),
        }
    }
    let others: Vec<String> = names_in(&cargo.disk).difference(&allowed).map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    assert!(others.is_empty(), "{which}: other names were left behind: {others:?}");
    refused
}

// F3. Mutation: `confirm` does not look for the exact name (Pure-FTPd drops outer spaces).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_names_arrive_byte_for_byte_or_are_refused() {
    each(FtpProgram::ALL, 4, async |program| {
        let files: Vec<(&'static str, usize)> = ODD.iter().enumerate().map(|(number, name)| (*name, 100 + number)).collect();
        let Some(harbour) = Harbour::new(program, resuming(program), &files).await else { return };
        tokio::time::timeout(super::BOUND, harbour.ferry.run(&harbour.keys)).await.expect("it ends").unwrap();
        let refused = judge(&harbour, program.name());
        println!("{}: refused {refused:#?}", program.name());
        let most = match program {
            FtpProgram::Vsftpd => 0,
            // A tilde is its home.
            FtpProgram::Pyftpdlib => 1,
            FtpProgram::Proftpd | FtpProgram::PureFtpd => 6,
        };
        assert!(refused.len() <= most, "{}: {refused:#?}", program.name());
    })
    .await;
}

// F3. Mutation: as above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_changes_names_without_a_word_is_found_out() {
    let files: Vec<(&'static str, usize)> = ODD.iter().enumerate().map(|(number, name)| (*name, 100 + number)).collect();
    let voyage = Voyage::new(Behaviour { names: Names::Trimmed, ..able() }, &files).await;
    tokio::time::timeout(super::BOUND, voyage.ferry.run(&voyage.keys)).await.expect("it ends").unwrap();
    let refused: BTreeSet<_> =
        judge(&voyage, "trimmed").into_iter().map(|(key, kind, _)| (key, kind == ErrorKind::DestNameInvalid)).collect();
    let outer = ODD.iter().filter(|name| name.trim_matches([' ', '\t']) != **name);
    assert_eq!(refused, outer.map(|name| ((*name).to_owned(), true)).collect(), "exactly these");
}

// F4. Mutation: the temporary name is the final one and more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_names_are_kept_whole_and_longer_ones_refused() {
    let longest: &'static str = Box::leak("n".repeat(255).into_boxed_str());
    // 85 times three bytes.
    let wide: &'static str = Box::leak("\u{20ac}".repeat(85).into_boxed_str());
    assert!(RemotePath::root().join(&"n".repeat(256)).is_err() && RemotePath::root().join(&"\u{20ac}".repeat(86)).is_err());
    each(FtpProgram::ALL, 4, async |program| {
        let Some(harbour) = Harbour::new(program, resuming(program), &[(longest, 1000), (wide, 900_000)]).await else { return };
        tokio::time::timeout(super::BOUND, harbour.ferry.run(&harbour.keys)).await.expect("it ends").unwrap();
        let refused = judge(&harbour, program.name());
        println!("{}: refused {refused:?}", program.name());
    })
    .await;
}

// F2. Mutation: `RemotePath::join` lets `..` through. What else leads out is in the model's own tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaves_the_directory_of_the_destination() {
    let keys: [&'static str; 8] = ["%2e%2e/a", "..%2fb", "C:\\c", "\u{2025}/d", "..\u{2215}e", "\u{ff0e}\u{ff0e}/f", "~/g", "..\\..\\h"];
    for out in ["../a", "a/../../b", "..", ".", "a/./b", "/../x", "a/.."] {
        let error = transfer::Error::from(RemotePath::from_user("/in").unwrap().join(out).unwrap_err());
        assert_eq!(error.kind, ErrorKind::DestNameInvalid, "{out}");
    }
    each(FtpProgram::ALL, 4, async |program| {
        let files: Vec<(&'static str, usize)> = keys.iter().enumerate().map(|(number, name)| (*name, 100 + number)).collect();
        let options = FtpServerOptions { security: FtpSecurity::Clear, ..resuming(program) };
        let Some(mut harbour) = Harbour::new(program, options, &files).await else { return };
        let below = format!("{}/in", harbour.server.directory().trim_end_matches('/'));
        harbour.cargo.ferry.root = RemotePath::from_user(&below).unwrap();
        harbour.cargo.ferry.wishes.make_root = true;
        tokio::time::timeout(super::BOUND, harbour.ferry.run(&harbour.keys)).await.expect("it ends").unwrap();
        let there = names_in(&harbour.disk);
        assert_eq!(there, BTreeSet::from([b"in".to_vec()]), "{}", harbour.name());
        for key in &harbour.keys {
            let kept = harbour.kept(key);
            let found = std::fs::read(harbour.disk.join("in").join(key)).ok();
            match kept.failed {
                None => assert!(found.as_deref() == harbour.source.bytes(key).as_deref(), "{}: {key:?}", harbour.name()),
                Some((kind, text, _)) => {
                    let clear =
                        [ErrorKind::DestNameInvalid, ErrorKind::DestDenied, ErrorKind::DestPublishFailed, ErrorKind::DestDirMissing];
                    assert!(clear.contains(&kind) && found.is_none(), "{}: {key:?}: {kind:?} {text}", harbour.name());
                }
            }
        }
    })
    .await;
}

// F5. Mutation: `rename_after_look` does not look, or RNTO is sent although the look found a file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twins_that_are_one_name_to_a_server_do_not_overwrite_each_other() {
    for names in [Names::Exact, Names::LowerCase] {
        for size in [1000, 900_000] {
            let voyage = Voyage::new(Behaviour { names, ..able() }, &[("twin", size), ("Twin", size + 1), ("TWIN", size + 2)]).await;
            tokio::time::timeout(super::BOUND, voyage.ferry.run(&voyage.keys)).await.expect("it ends").unwrap();
            let delivered: Vec<_> = voyage.keys.iter().filter(|key| voyage.kept(key).finished.is_some()).collect();
            if names == Names::Exact {
                voyage.assert_delivered("twins");
                continue;
            }
            assert!(delivered.len() <= 1, "{delivered:?}");
            for key in &voyage.keys {
                if !delivered.contains(&key) {
                    let (kind, text) = voyage.failed(key, "twin");
                    assert!(matches!(kind, ErrorKind::DestExists | ErrorKind::DestNameInvalid), "{key}: {text}");
                }
            }
            if let Some(first) = delivered.first() {
                assert!(voyage.there("twin").unwrap() == voyage.source.bytes(first).unwrap(), "{first} was overwritten");
            }
        }
    }
}
