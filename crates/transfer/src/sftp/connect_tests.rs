//! Logs in at a server in this process that counts what it is offered, and at servers that are none.
//! `openssh_tests` does the same at OpenSSH's sshd.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicUsize;

use model::{Endpoint, Protocol};
use russh::keys::key::safe_rng;
use russh::keys::{Algorithm, EcdsaCurve, PrivateKey};
use russh::server::{self, Auth, Server as _};
use russh::{MethodKind, MethodSet};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::config::{Algorithms, Identity, Prompt, Secret};
use super::super::trust::fingerprint;
use super::*;
use crate::error::chain;
use crate::road::AddressFamily;

fn config(address: SocketAddr, user: &str) -> SftpConfig {
    SftpConfig::new(Endpoint {
        protocol: Protocol::Sftp,
        host: address.ip().to_string(),
        port: Some(address.port()),
        user: Some(user.to_owned()),
    })
}

fn identity(path: &Path) -> Identity {
    Identity { path: path.to_owned(), passphrase: None, named: true }
}

fn keygen(arguments: &[&str]) {
    let output = Command::new("ssh-keygen").args(arguments).stdin(Stdio::null()).output().expect("ssh-keygen is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Makes a key pair and returns the path of its private half.
fn key(directory: &Path, name: &str, kind: &[&str], passphrase: &str) -> PathBuf {
    let path = directory.join(name);
    keygen(&[&["-q", "-N", passphrase, "-C", name, "-f", path.to_str().unwrap()], kind].concat());
    path
}

fn public(path: &Path) -> String {
    std::fs::read_to_string(path.with_extension("pub")).unwrap().trim().to_owned()
}

fn print_of(path: &Path) -> String {
    fingerprint(&russh::keys::PublicKey::from_openssh(&public(path)).unwrap())
}

async fn error_of(config: &SftpConfig) -> Error {
    open_session(config).await.expect_err("this login must fail")
}

// A server in this process

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
    passwords: AtomicUsize,
}

#[derive(Clone)]
struct Rules {
    /// Methods in the order in which all of them must succeed.
    order: Vec<MethodKind>,
    password: &'static str,
    /// A second question after the password, by keyboard-interactive.
    second: bool,
}

#[derive(Clone)]
struct Counting {
    rules: Rules,
    counts: Arc<Counts>,
    done: usize,
    asked: usize,
}

impl Counting {
    fn left(&self) -> MethodSet {
        self.rules.order.get(self.done).map(|m| MethodSet::from(&[*m][..])).unwrap_or_else(MethodSet::empty)
    }

    fn judge(&mut self, method: MethodKind, good: bool) -> Auth {
        let good = good && self.rules.order.get(self.done) == Some(&method);
        self.done += usize::from(good);
        if good && self.done == self.rules.order.len() {
            return Auth::Accept;
        }
        Auth::Reject { proceed_with_methods: Some(self.left()), partial_success: good }
    }
}

impl server::Server for Counting {
    type Handler = Self;
    fn new_client(&mut self, _: Option<SocketAddr>) -> Self {
        self.counts.connections.fetch_add(1, Ordering::SeqCst);
        self.clone()
    }
}

impl server::Handler for Counting {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Auth, russh::Error> {
        self.counts.requests.fetch_add(1, Ordering::SeqCst);
        Ok(Auth::Reject { proceed_with_methods: Some(self.left()), partial_success: false })
    }

    async fn auth_password(&mut self, _: &str, password: &str) -> Result<Auth, russh::Error> {
        self.counts.requests.fetch_add(1, Ordering::SeqCst);
        self.counts.passwords.fetch_add(1, Ordering::SeqCst);
        let good = password == self.rules.password;
        Ok(self.judge(MethodKind::Password, good))
    }

    async fn auth_publickey(&mut self, _: &str, _: server::VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        self.counts.requests.fetch_add(1, Ordering::SeqCst);
        Ok(self.judge(MethodKind::PublicKey, true))
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _: &str,
        _: &str,
        response: Option<server::Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        self.counts.requests.fetch_add(1, Ordering::SeqCst);
        let ask =
            |what: &'static str| Auth::Partial { name: "".into(), instructions: "".into(), prompts: vec![(what.into(), false)].into() };
        let Some(mut response) = response else {
            self.asked = 1;
            return Ok(ask("Password: "));
        };
        let given = response.next().unwrap_or_default();
        self.counts.passwords.fetch_add(usize::from(given == self.rules.password.as_bytes()), Ordering::SeqCst);
        if self.rules.second && self.asked == 1 {
            self.asked = 2;
            return Ok(ask("One-time code: "));
        }
        let wanted = if self.asked == 2 { "123456" } else { self.rules.password };
        let good = given == wanted.as_bytes();
        Ok(self.judge(MethodKind::KeyboardInteractive, good))
    }
}

struct Counted {
    address: SocketAddr,
    counts: Arc<Counts>,
    host_key: PrivateKey,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Counted {
    fn pinned(&self) -> SftpConfig {
        let mut config = config(self.address, "alice");
        config.host_key_pins = vec![fingerprint(self.host_key.public_key())];
        config
    }

    fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    fn passwords(&self) -> usize {
        self.counts.passwords.load(Ordering::SeqCst)
    }
}

async fn counting(order: &[MethodKind], second: bool) -> Counted {
    let host_key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap();
    let other = PrivateKey::random(&mut safe_rng(), Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }).unwrap();
    let settings = server::Config {
        keys: vec![host_key.clone(), other],
        auth_rejection_time: Duration::ZERO,
        auth_rejection_time_initial: Some(Duration::ZERO),
        ..Default::default()
    };
    let counts = Arc::new(Counts::default());
    let rules = Rules { order: order.to_vec(), password: "right", second };
    let mut counting = Counting { rules, counts: counts.clone(), done: 0, asked: 0 };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let _ = counting.run_on_socket(Arc::new(settings), &listener).await;
    });
    Counted { address, counts, host_key, task }
}

#[derive(Debug, Default)]
struct Answers {
    given: Vec<&'static str>,
    asked: Mutex<Vec<String>>,
}

impl Prompt for Answers {
    fn ask(&self, what: &str) -> Option<Secret> {
        let mut asked = self.asked.lock().unwrap();
        asked.push(what.to_owned());
        self.given.get(asked.len() - 1).map(|text| Secret::new(*text))
    }
}

// SEMANTICS S25: "A server whose host key is unknown, revoked or another than the one on record is refused before it is told
// a user name or shown a credential."
#[tokio::test]
async fn an_unknown_host_key_is_refused_before_anything_is_said_about_the_user() {
    let server = counting(&[MethodKind::Password], false).await;
    let mut config = config(server.address, "alice");
    config.password = Some(Secret::new("right"));
    config.known_hosts = vec!["/nowhere/known_hosts".into()];
    let error = error_of(&config).await;
    assert_eq!(error.kind, ErrorKind::DestHostKey);
    let text = chain(&error);
    let print = fingerprint(server.host_key.public_key());
    for part in [
        "not known",
        "ssh-ed25519",
        &print,
        "/nowhere/known_hosts",
        &format!("--host-key {print}"),
        &format!("[127.0.0.1]:{} ssh-ed25519 AAAA", server.address.port()),
    ] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn a_changed_host_key_shows_both_fingerprints_and_the_place() {
    let server = counting(&[MethodKind::Password], false).await;
    let directory = TempDir::new().unwrap();
    let old = key(directory.path(), "old", &["-t", "ed25519"], "");
    let file = directory.path().join("known_hosts");
    std::fs::write(&file, format!("# first\n[127.0.0.1]:{} {}\n", server.address.port(), public(&old))).unwrap();
    let mut config = config(server.address, "alice");
    config.password = Some(Secret::new("right"));
    config.known_hosts = vec![file.clone()];
    let error = error_of(&config).await;
    assert_eq!(error.kind, ErrorKind::DestHostKey);
    let text = chain(&error);
    for part in [&print_of(&old), &fingerprint(server.host_key.public_key()), &format!("{}:2", file.display()), "ssh-keygen -R"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn a_revoked_key_is_refused_even_when_it_is_pinned() {
    let server = counting(&[MethodKind::Password], false).await;
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("known_hosts");
    std::fs::write(&file, format!("@revoked * {}\n", server.host_key.public_key().to_openssh().unwrap())).unwrap();
    let mut config = server.pinned();
    config.known_hosts = vec![file];
    config.password = Some(Secret::new("right"));
    let error = error_of(&config).await;
    assert_eq!(error.kind, ErrorKind::DestHostKey);
    assert!(chain(&error).contains("revoked"), "{}", chain(&error));
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn a_pin_decides_alone_and_a_wrong_one_names_every_key_of_the_server() {
    let server = counting(&[MethodKind::Password], false).await;
    let mut config = server.pinned();
    config.password = Some(Secret::new("right"));
    let opened = open_session(&config).await.unwrap();
    assert_eq!(opened.identity.host_key, Some(fingerprint(server.host_key.public_key())));
    assert_eq!(opened.identity.address, Some(server.address));
    assert!(opened.identity.software.unwrap().starts_with("SSH-2.0-"));
    config.host_key_pins = vec!["SHA256:uNiVztksCsDhcc0u9e8BrrJqnJVdSV3UDtvZJI2Hv9g".to_owned()];
    let before = server.requests();
    let text = chain(&error_of(&config).await);
    assert!(text.contains("--host-key has SHA256:uNiV") && text.contains("it also presented ecdsa-sha2-nistp256"), "{text}");
    assert_eq!(server.requests(), before);
}

// SEMANTICS S26: "One login sends a password at most once, and after a refused login `copy` does not try the same credential
// at that account again until it changes or `--retry-auth` is given."
#[tokio::test]
async fn a_wrong_password_is_sent_exactly_once() {
    for method in [MethodKind::Password, MethodKind::KeyboardInteractive] {
        let server = counting(&[method], false).await;
        let mut config = server.pinned();
        config.password = Some(Secret::new("wrong-secret"));
        let error = error_of(&config).await;
        assert_eq!(error.kind, ErrorKind::DestAuth);
        let text = chain(&error);
        assert!(text.contains("alice") && text.contains("(refused)") && text.contains("still wants"), "{text}");
        assert!(!text.contains("wrong-secret"), "{text}");
        // "none", and the password once: as one request, or as a question and its answer.
        assert_eq!(server.requests(), if method == MethodKind::Password { 2 } else { 3 }, "{text}");
    }
}

#[tokio::test]
async fn several_methods_in_one_login_succeed_in_the_servers_order() {
    use MethodKind::{KeyboardInteractive, Password, PublicKey};
    let directory = TempDir::new().unwrap();
    let path = key(directory.path(), "id", &["-t", "ed25519"], "");
    for order in [vec![PublicKey, Password], vec![Password, PublicKey], vec![PublicKey, KeyboardInteractive], vec![KeyboardInteractive]] {
        let server = counting(&order, false).await;
        let mut config = server.pinned();
        config.password = Some(Secret::new("right"));
        config.identities = vec![identity(&path)];
        open_session(&config).await.unwrap_or_else(|e| panic!("{order:?}: {}", chain(&e)));
        assert_eq!(server.passwords(), 1, "{order:?}");
    }
    // One half of the proof is not enough, and the message says which half is missing.
    let server = counting(&[PublicKey, Password], false).await;
    let mut config = server.pinned();
    config.identities = vec![identity(&path)];
    let error = error_of(&config).await;
    let text = chain(&error);
    assert!(error.kind == ErrorKind::DestAuth && text.contains("id (accepted)") && text.contains("still wants password"), "{text}");
}

#[tokio::test]
async fn a_second_question_is_never_answered_with_the_password() {
    let server = counting(&[MethodKind::KeyboardInteractive], true).await;
    let mut config = server.pinned();
    config.password = Some(Secret::new("right"));
    let error = error_of(&config).await;
    assert_eq!(error.kind, ErrorKind::DestAuth);
    assert!(chain(&error).contains("One-time code"), "{}", chain(&error));
    assert_eq!(server.passwords(), 1);

    let answers = Arc::new(Answers { given: vec!["123456"], ..Default::default() });
    config.prompt = Some(answers.clone());
    open_session(&config).await.unwrap();
    assert!(answers.asked.lock().unwrap()[0].contains("One-time code"));
}

#[tokio::test]
async fn a_person_is_asked_for_the_password_once_and_only_where_there_is_one() {
    let server = counting(&[MethodKind::Password], false).await;
    let answers = Arc::new(Answers { given: vec!["right"], ..Default::default() });
    let mut config = server.pinned();
    config.prompt = Some(answers.clone());
    open_session(&config).await.unwrap();
    assert_eq!(answers.asked.lock().unwrap().len(), 1);

    config.prompt = None;
    config.identities = vec![Identity { path: "/nowhere/id_ed25519".into(), passphrase: None, named: false }];
    let error = error_of(&config).await;
    let text = chain(&error);
    assert!(error.kind == ErrorKind::DestAuth && text.contains("nothing to try") && text.contains("no password"), "{text}");
}

#[tokio::test]
async fn a_server_that_takes_no_method_is_an_authentication_error() {
    let server = counting(&[], false).await;
    let error = error_of(&server.pinned()).await;
    assert!(error.kind == ErrorKind::DestAuth && chain(&error).contains("no further method"), "{}", chain(&error));
}

// Servers that are none

/// Accepts, sends `said`, and then waits or closes.
async fn saying(said: &'static [u8], close: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(said).await;
                if close {
                    let _ = stream.shutdown().await;
                }
                let _ = stream.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_server_that_is_not_ssh_is_named_as_such_with_its_first_bytes() {
    let web = saying(b"HTTP/1.1 400 Bad\r\n\r\n\x1b[31m", true).await;
    let error = error_of(&config(web, "u")).await;
    let text = chain(&error);
    assert!(error.kind == ErrorKind::DestProtocol && text.contains("HTTP/1.1 400") && text.contains("\\x1b"), "{text}");
    const NOISE: &[u8] = &[b'x'; 4096];
    assert_eq!(error_of(&config(saying(NOISE, false).await, "u")).await.kind, ErrorKind::DestProtocol);
}

#[tokio::test]
async fn silence_refusal_and_early_closing_have_their_own_classes() {
    let mut silent = config(saying(b"", false).await, "u");
    silent.connect_timeout = Duration::from_millis(300);
    let started = Instant::now();
    assert_eq!(error_of(&silent).await.kind, ErrorKind::NetworkStalled);
    assert!(started.elapsed() < Duration::from_secs(5));

    assert_eq!(error_of(&config(saying(b"", true).await, "u")).await.kind, ErrorKind::DestUnreachable);

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = error_of(&config(free, "u")).await;
    assert!(error.kind == ErrorKind::DestUnreachable && chain(&error).contains(&free.to_string()), "{}", chain(&error));

    let mut nameless = config(free, "u");
    nameless.endpoint.host = "no-such-host.invalid".to_owned();
    assert_eq!(error_of(&nameless).await.kind, ErrorKind::DestUnreachable);
    let mut family = config(free, "u");
    family.family = AddressFamily::V6;
    assert_eq!(error_of(&family).await.kind, ErrorKind::DestUnreachable);
}

#[tokio::test]
async fn a_session_can_be_cut_short_at_its_socket() {
    let server = counting(&[MethodKind::Password], false).await;
    let mut config = server.pinned();
    config.password = Some(Secret::new("right"));
    let opened = open_session(&config).await.unwrap();
    opened.socket.shut();
    tokio::time::timeout(Duration::from_secs(5), opened.handle).await.expect("the session's task ends").unwrap_err();
}

#[path = "openssh_tests.rs"]
mod openssh;

// Mutations: `open_ahead` takes nothing that was begun; `reached` looks at no distance; its task does not wait for the proof.
#[tokio::test]
async fn sessions_begun_over_a_long_way_say_nothing_of_the_user_before_one_has_logged_in() {
    let server = counting(&[MethodKind::Password], false).await;
    let mut config = server.pinned();
    config.password = Some(Secret::new("right"));
    let trust = Arc::new(Trust::load(&config).unwrap());
    let (keys, certificates) = trust.host_key_algorithms(&[]);
    let preferred = preferred(config.algorithms, keys, certificates);
    let ahead = Ahead::default();
    let reached = |sessions, milliseconds| {
        ahead.expect(sessions);
        ahead.reached(Duration::from_millis(milliseconds), &config, &trust, &preferred);
    };
    reached(2, 1);
    assert!(ahead.take().await.is_none(), "nothing is begun for a server that is near");
    reached(1, 50);
    let taken = tokio::time::timeout(Duration::from_millis(300), ahead.take()).await;
    assert!(taken.is_err(), "it waits for the proof");
    assert_eq!((server.connections(), server.requests()), (1, 0));
    reached(1, 50);
    open_session(&config).await.unwrap();
    ahead.prove();
    open_ahead(&config, &ahead).await.unwrap();
    assert_eq!((server.connections(), server.passwords()), (3, 2), "the one that was begun");
    open_ahead(&config, &ahead).await.unwrap();
    assert_eq!((server.connections(), server.passwords()), (4, 3), "one of its own");
}
