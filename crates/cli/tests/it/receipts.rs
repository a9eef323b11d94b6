//! `receipt verify` and `receipt key`, with receipts that were tampered with.

use super::*;
use model::receipt::{Published, Receipt, ReceiptDestination, ReceiptSource, SigningKey, Verification};
use model::{Clobber, FileNumber, FileState, Grade, ObjectKey, Protocol, Publish, RemotePath, TransferId};

/// The file that the receipts speak of.
const CONTENT: &[u8] = b"123456789";
const CRC: &str = "ae8b14860a799888";
const SHA256: &str = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";

fn receipt(name: &str, sha256: Option<&str>) -> Receipt {
    Receipt {
        v: 1,
        kind: "file".into(),
        transfer_id: TransferId::from_random([1; 10]),
        run: 1,
        file: FileNumber(0),
        status: FileState::Delivered,
        source: ReceiptSource {
            store: "s3".into(),
            bucket: "b".into(),
            key: ObjectKey::new(name).unwrap(),
            version: None,
            etag: None,
            last_modified: None,
        },
        destination: ReceiptDestination {
            protocol: Protocol::Sftp,
            host: "h".into(),
            port: 22,
            user: Some("u".into()),
            path: RemotePath::from_user(&format!("/in/{name}")).unwrap(),
            host_key: None,
            server: None,
        },
        size: CONTENT.len() as u64,
        crc64nvme: CRC.into(),
        sha256: sha256.map(str::to_owned),
        md5: None,
        verification: Verification { grade: Grade::ReadBack, algorithm: None, value: None, bytes_compared: 9, blocks: 0 },
        published: Published { mode: Publish::Rename, clobber: Clobber::Atomic, synced: true },
        bytes_sent: 9,
        bytes_resumed: 0,
        attempts: 1,
        epochs: 1,
        connections: 1,
        started_at: jiff::Timestamp::UNIX_EPOCH,
        finished_at: jiff::Timestamp::UNIX_EPOCH,
        notes: vec![],
        program: "fileferry test".into(),
        signed_by: String::new(),
    }
}

fn signed(key: &SigningKey, name: &str) -> String {
    key.sign(&receipt(name, Some(SHA256))).unwrap()
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

// SEMANTICS S11: "A receipt is signed over its exact bytes: `receipt verify` exits 22 when anything was changed, and 23 when
// it is intact but its signer is not trusted."
#[test]
fn an_unknown_signer_is_23_and_a_trusted_one_0() {
    let home = Home::new();
    let key = key(7);
    let file = home.write("r.jsonl", &format!("{}\n{}\n", signed(&key, "a"), signed(&key, "b")));
    let ran = home.run(&["receipt", "verify", text(&file)]);
    assert_eq!(ran.code, 23, "{}", ran.err);
    assert!(ran.out.contains("line 2: intact, signer unknown"), "{}", ran.out);

    assert_eq!(home.run(&["receipt", "verify", text(&file), "--key", &key.fingerprint()]).code, 0);
    let public = home.write("key.pub", &format!("{}\n", data_encoding::BASE64.encode(key.public_key())));
    assert_eq!(home.run(&["receipt", "verify", text(&file), "--key", text(&public)]).code, 0);
    let other = SigningKey::from_seed(&[8; 32]).unwrap().fingerprint();
    assert_eq!(home.run(&["receipt", "verify", text(&file), "--key", &other]).code, 23);

    assert_eq!(home.run(&["receipt", "key", "trust", &key.fingerprint(), "partner"]).code, 0);
    let ran = home.run(&["receipt", "verify", text(&file)]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("(partner)"));
    assert_eq!(home.run(&["receipt", "verify", text(&file), "--key", &other]).code, 23, "--key alone decides where it is given");
}

// SEMANTICS S11: "A receipt is signed over its exact bytes: `receipt verify` exits 22 when anything was changed, and 23 when
// it is intact but its signer is not trusted."
#[test]
fn any_tampering_is_22() {
    let home = Home::new();
    let key = key(7);
    let line = signed(&key, "a");
    for (what, tampered) in [
        ("size", line.replace("\"size\":9", "\"size\":8")),
        ("signature removed", line[..line.rfind(",\"signature\"").unwrap()].to_owned() + "}"),
        ("type changed so that it would be passed over", line.replace("\"type\":\"file\"", "\"type\":\"plan\"")),
        ("status", line.replace("\"status\":\"delivered\"", "\"status\":\"failed\"")),
        ("white space", line.replace("\"v\":1,", "\"v\": 1,")),
        ("not JSON", "delivered, honestly".to_owned()),
    ] {
        let file = home.write("r.jsonl", &format!("{line}\n{tampered}\n"));
        let ran = home.run(&["receipt", "verify", text(&file), "--key", &key.fingerprint()]);
        assert_eq!(ran.code, 22, "{what}: {}", ran.out);
        assert!(ran.out.contains("line 1: intact") && ran.out.contains("line 2: BROKEN"), "{what}: {}", ran.out);
    }
}

#[test]
fn receipts_are_found_among_json_output() {
    let home = Home::new();
    let key = key(7);
    let output = format!(
        "{}\n{}\n{}\n{}\n",
        r#"{"v":1,"type":"plan"}"#,
        signed(&key, "a"),
        r#"{"v":1,"type":"file","status":"failed"}"#,
        r#"{"v":1,"type":"summary"}"#
    );
    let file = home.write("r.jsonl", &output);
    let ran = home.run(&["receipt", "verify", text(&file), "--key", &key.fingerprint(), "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.out);
    let last = ran.objects().pop().unwrap();
    assert_eq!((last["intact"].as_u64(), last["other"].as_u64()), (Some(1), Some(3)));
    let none = home.write("none.jsonl", "{\"v\":1,\"type\":\"plan\"}\n");
    assert_eq!(home.run(&["receipt", "verify", text(&none)]).code, 1);
}

#[test]
fn the_delivered_content_is_compared_with_a_local_file() {
    let home = Home::new();
    let key = key(7);
    let without_sha256 = key.sign(&receipt("c", None)).unwrap();
    let receipts = home.write("r.jsonl", &format!("{}\n{}\n{without_sha256}\n", signed(&key, "a"), signed(&key, "b")));
    std::fs::write(home.path("a"), CONTENT).unwrap();
    std::fs::write(home.path("c"), CONTENT).unwrap();
    std::fs::write(home.path("b"), b"123456780").unwrap();
    std::fs::write(home.path("d"), CONTENT).unwrap();
    let against =
        |name: &str| home.run(&["receipt", "verify", text(&receipts), "--key", &key.fingerprint(), "--against", text(&home.path(name))]);
    let same = against("a");
    assert_eq!(same.code, 0, "{}", same.out);
    assert!(same.out.contains("by sha256 and crc64nvme"));
    assert!(against("c").out.contains("is what was delivered, by crc64nvme"));
    let different = against("b");
    assert_eq!(different.code, 22);
    assert!(different.out.contains("is NOT what was delivered"), "{}", different.out);
    assert_eq!(against("d").code, 1, "no receipt speaks of it");
    let url = home.run(&["receipt", "verify", text(&receipts), "--key", &key.fingerprint(), "--against", "sftp://h/a"]);
    assert!(url.code == 1 && url.err.contains("not in this version"));
}

#[test]
fn the_signing_key_is_shown_and_rotated() {
    let home = Home::new();
    let show = |home: &Home| home.run(&["receipt", "key", "show", "--json"]).objects();
    let first = show(&home)[0]["fingerprint"].as_str().unwrap().to_owned();
    assert_eq!(show(&home)[0]["fingerprint"], first.as_str(), "made once");
    assert_eq!(home.run(&["receipt", "key", "rotate"]).code, 0);
    let keys = show(&home);
    assert_ne!(keys[0]["fingerprint"], first.as_str());
    assert!(keys.iter().any(|key| key["fingerprint"] == first.as_str()), "the old key stays trusted");
    use std::os::unix::fs::PermissionsExt as _;
    let path = home.state().join("receipt-key");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let ran = home.run(&["receipt", "key", "show"]);
    assert!(ran.code == 2 && ran.err.contains("chmod 600"), "{}", ran.err);
}
