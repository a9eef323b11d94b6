//! `receipt verify` and `receipt key`: whether receipts are intact, who signed them, and whether that is trusted.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use model::receipt::{self, Verified};
use model::{ByteCount, ErrorClass, Receipt};
use runtime::keys::{self, KeyError, TrustedKey};
use serde_json::{Value, json};
use transfer::digest::{StreamDigests, combine, crc64};

use crate::args::{KeyCommand, ReceiptCommand, VerifyArgs};
use crate::environment::Environment;
use crate::exit;
use crate::output::Screen;
use crate::trouble::Trouble;

/// A file of some hundred thousand receipts; more is another file.
const MAX_BYTES: u64 = 512 << 20;
const MAX_KEY_BYTES: u64 = 1 << 20;

pub fn run(command: &ReceiptCommand, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    match command {
        ReceiptCommand::Verify(args) => verify(args, environment, screen),
        ReceiptCommand::Page(args) => crate::page::write(args, environment, screen),
        ReceiptCommand::Key { command } => key(command, environment, screen),
    }
}

fn key(command: &KeyCommand, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let state = &environment.state;
    let show = |word: &str, key: &receipt::SigningKey| {
        screen.say(&format!("{} {}  {word}", key.fingerprint(), keys::public_text(key)));
        screen.object(
            &json!({"v": 1, "type": "key", "fingerprint": key.fingerprint(), "public_key": keys::public_text(key), "comment": word}),
        );
    };
    match command {
        KeyCommand::Show => {
            let own = keys::load_or_create(state)?;
            show("this machine", &own);
            for trusted in keys::trusted(state)?.into_iter().filter(|key| key.fingerprint != own.fingerprint()) {
                screen.say(&format!("{}  trusted: {}", trusted.fingerprint, trusted.comment));
                screen.object(
                    &json!({"v": 1, "type": "key", "fingerprint": trusted.fingerprint, "public_key": null, "comment": trusted.comment}),
                );
            }
        }
        KeyCommand::Rotate => {
            let rotated = keys::rotate(state)?;
            show("this machine, new", &rotated.new);
            if let Some(old) = rotated.old {
                screen.note(&format!("{old} signs nothing more; its receipts stay trusted here. Tell your partners the new fingerprint"));
            }
        }
        KeyCommand::Trust { fingerprint, comment } => {
            keys::trust(state, fingerprint, comment)?;
            screen.say(&format!("{fingerprint} is trusted"));
        }
    }
    Ok(exit::DONE)
}

impl From<KeyError> for Trouble {
    fn from(error: KeyError) -> Self {
        let mut trouble = Trouble::usage(error.to_string(), "look at that file's owner and permissions");
        trouble.exit_code = ErrorClass::Internal.exit_code();
        trouble
    }
}

/// What one line turned out to be.
#[derive(Debug)]
enum Line {
    Trusted(Box<Verified>, String),
    Unknown(Box<Verified>),
    Broken(String),
    /// A plan, progress, summary or failed file among `--json` output.
    Other,
}

fn verify(args: &VerifyArgs, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let text = read_bounded(&args.file)?;
    let trusted = trusted_keys(&args.key, environment)?;
    let lines: Vec<(usize, Line)> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| (index + 1, examine(line, &trusted)))
        .collect();
    let (mut intact, mut unknown, mut broken, mut other) = (0u64, 0u64, 0u64, 0u64);
    for (number, line) in &lines {
        match line {
            Line::Trusted(verified, comment) => {
                intact += 1;
                tell(screen, *number, "intact", &format!("intact, signed by {} ({comment})", verified.fingerprint), Some(verified));
            }
            Line::Unknown(verified) => {
                unknown += 1;
                let text = format!("intact, signer unknown ({})", verified.fingerprint);
                tell(screen, *number, "signer_unknown", &text, Some(verified));
            }
            Line::Broken(why) => {
                broken += 1;
                tell(screen, *number, "broken", &format!("BROKEN: {why}"), None);
            }
            Line::Other => other += 1,
        }
    }
    if intact + unknown + broken == 0 {
        return Err(Trouble::usage(format!("{} holds no receipt", args.file.display()), "name a file written by --receipt or --json"));
    }
    screen.say(&format!("{intact} intact and trusted, {unknown} intact with unknown signer, {broken} broken, {other} other lines"));
    let mut code = exit::DONE;
    if unknown > 0 {
        code = ErrorClass::DestHostKey.exit_code();
        screen.note("the signer is not trusted here: give --key, or `fileferry receipt key trust FINGERPRINT` after asking the sender by another way");
    }
    if broken > 0 {
        code = ErrorClass::IntegrityMismatch.exit_code();
    }
    if let Some(against) = &args.against {
        let receipts: Vec<&Receipt> = lines
            .iter()
            .filter_map(|(_, line)| match line {
                Line::Trusted(verified, _) | Line::Unknown(verified) => Some(&verified.receipt),
                _ => None,
            })
            .collect();
        if !compare(&receipts, against, screen)? {
            code = ErrorClass::IntegrityMismatch.exit_code();
        }
    }
    screen.object(&json!({"v": 1, "type": "verified", "intact": intact, "signer_unknown": unknown, "broken": broken, "other": other,
        "exit_code": code}));
    Ok(code)
}

fn tell(screen: &Screen, number: usize, state: &str, text: &str, verified: Option<&Verified>) {
    let receipt = verified.map(|v| &v.receipt);
    screen.say(&format!("line {number}: {text}"));
    if let Some(r) = receipt {
        let grade = r.verification.grade;
        let place = format!("{}:{}{}", r.destination.host, r.destination.port, r.destination.path);
        screen.say(&format!("  {} {} to {place}, proof {grade}, finished {:.0}", r.status, ByteCount(r.size), r.finished_at));
    }
    screen.object(&json!({"v": 1, "type": "receipt", "line": number, "state": state, "signed_by": verified.map(|v| &v.fingerprint),
        "path": receipt.map(|r| r.destination.path.as_str())}));
}

fn examine(line: &str, trusted: &[TrustedKey]) -> Line {
    match receipt::verify_line(line) {
        Ok(verified) => match trusted.iter().find(|key| key.fingerprint == verified.fingerprint) {
            Some(key) => {
                let comment = if key.comment.is_empty() { "trusted".to_owned() } else { key.comment.clone() };
                Line::Trusted(Box::new(verified), comment)
            }
            None => Line::Unknown(Box::new(verified)),
        },
        Err(error) if is_other(line) => {
            tracing::debug!(%error, "not a receipt");
            Line::Other
        }
        Err(error) => Line::Broken(error.to_string()),
    }
}

/// Only a whole JSON object without any trace of a signature is passed over; what claims delivery must be signed.
pub fn is_other(line: &str) -> bool {
    let Ok(Value::Object(object)) = serde_json::from_str::<Value>(line) else { return false };
    if object.contains_key("signature") || object.contains_key("signed_by") {
        return false;
    }
    match object.get("type").and_then(Value::as_str) {
        Some("plan" | "progress" | "summary" | "error" | "after" | "watch") => true,
        Some("file" | "companion") => !matches!(object.get("status").and_then(Value::as_str), Some("delivered" | "collected") | None),
        _ => false,
    }
}

/// `--key` alone decides where it is given; otherwise the trust file and this machine's own key.
pub fn trusted_keys(given: &[String], environment: &Environment) -> Result<Vec<TrustedKey>, Trouble> {
    if given.is_empty() {
        return Ok(keys::trusted(&environment.state)?);
    }
    let mut trusted = Vec::new();
    for text in given {
        if let Some(fingerprint) = fingerprint_of(text) {
            trusted.push(TrustedKey { fingerprint, comment: "--key".to_owned() });
            continue;
        }
        let path = environment.expand(Path::new(text));
        let unusable = |why: String| {
            Trouble::usage(format!("--key {text}: {why}"), "give SHA256:… or a file of such lines, as `receipt key show` prints them")
        };
        let size = std::fs::metadata(&path).map_err(|e| unusable(e.to_string()))?.len();
        if size > MAX_KEY_BYTES {
            return Err(unusable("is too large for a key file".to_owned()));
        }
        let lines = std::fs::read_to_string(&path).map_err(|e| unusable(e.to_string()))?;
        let found = lines.lines().filter_map(|line| fingerprint_of(line.split_whitespace().next()?));
        let before = trusted.len();
        trusted.extend(found.map(|fingerprint| TrustedKey { fingerprint, comment: text.clone() }));
        if trusted.len() == before {
            return Err(unusable("holds no key".to_owned()));
        }
    }
    Ok(trusted)
}

/// `SHA256:…` as it is, or the fingerprint of a base64 Ed25519 public key.
fn fingerprint_of(text: &str) -> Option<String> {
    if text.starts_with("SHA256:") {
        return Some(text.trim_end_matches('=').to_owned());
    }
    let key = data_encoding::BASE64.decode(text.as_bytes()).ok().filter(|key| key.len() == 32)?;
    Some(receipt::fingerprint(&key))
}

/// Whether the local file holds what the receipt says was delivered.
fn compare(receipts: &[&Receipt], against: &str, screen: &Screen) -> Result<bool, Trouble> {
    let path = match against.split_once("://") {
        None => PathBuf::from(against),
        Some(("file", path)) => PathBuf::from(path),
        Some((scheme, _)) => {
            return Err(Trouble::usage(
                format!("--against {scheme}:// is not in this version; it compares with files of this machine"),
                "fetch the file first, or compare in place with `fileferry check`",
            ));
        }
    };
    let receipt = choose(receipts, &path)?;
    let (size, crc, sha256) = digest_file(&path)
        .map_err(|e| Trouble::usage(format!("could not read {}: {e}", path.display()), "name a file that can be read"))?;
    let mut wrong = Vec::new();
    if size != receipt.size {
        wrong.push(format!("size {size}, receipt {}", receipt.size));
    }
    if crc != receipt.crc64nvme {
        wrong.push(format!("crc64nvme {crc}, receipt {}", receipt.crc64nvme));
    }
    if let Some(stated) = receipt.sha256.as_ref().filter(|stated| **stated != sha256) {
        wrong.push(format!("sha256 {sha256}, receipt {stated}"));
    }
    let by = if receipt.sha256.is_some() { "sha256 and crc64nvme" } else { "crc64nvme" };
    match wrong.is_empty() {
        true => screen.say(&format!("{} is what was delivered, by {by}", path.display())),
        false => screen.say(&format!("{} is NOT what was delivered: {}", path.display(), wrong.join("; "))),
    }
    screen.object(&json!({"v": 1, "type": "comparison", "file": path.display().to_string(), "same": wrong.is_empty(), "how": by,
        "differences": wrong}));
    Ok(wrong.is_empty())
}

/// The receipt that speaks of this file: the only one, or the only one with its name.
fn choose<'a>(receipts: &[&'a Receipt], path: &Path) -> Result<&'a Receipt, Trouble> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let named: Vec<_> = receipts.iter().filter(|r| r.destination.path.name() == name).collect();
    match (receipts, named.as_slice()) {
        ([only], _) => Ok(only),
        (_, [one]) => Ok(one),
        (_, several) => Err(Trouble::usage(
            format!("{} intact receipts speak of {name:?}, so it is not clear what to compare with", several.len()),
            "put the one receipt into a file of its own",
        )),
    }
}

fn digest_file(path: &Path) -> std::io::Result<(u64, String, String)> {
    let mut file = std::fs::File::open(path)?;
    let mut digests = StreamDigests::new(model::DigestSet { sha256: true, md5: false });
    let (mut crc, mut size) = (model::Crc64::default(), 0u64);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let data = &buffer[..count];
        digests.update(data);
        crc = if size == 0 { crc64(data) } else { combine(crc, crc64(data), count as u64) };
        size += count as u64;
    }
    if size == 0 {
        crc = crc64(b"");
    }
    let (sha256, _) = digests.finish();
    Ok((size, crc.to_string(), sha256.expect("SHA-256 was asked for")))
}

pub fn read_bounded(path: &Path) -> Result<String, Trouble> {
    let read = || -> std::io::Result<String> {
        let mut text = String::new();
        let source: Box<dyn std::io::Read> =
            if path == Path::new("-") { Box::new(std::io::stdin()) } else { Box::new(std::fs::File::open(path)?) };
        source.take(MAX_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(std::io::Error::other(format!("it is larger than {}", ByteCount(MAX_BYTES))));
        }
        Ok(text)
    };
    read().map_err(|e| Trouble::usage(format!("could not read {}: {e}", path.display()), "name a file of receipt lines, or - for stdin"))
}
