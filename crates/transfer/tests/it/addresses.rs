//! Where a connection may lead: names that turn to this machine's own network between two questions, names that fail and
//! come back, servers that name other addresses for their data. Every test has a resolver of its own.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Endpoint, FileState, Protocol, ProxyAddress, RemotePath};
use testkit::forward::{ForwardOptions, ForwardProxy};
use testkit::ftp_sandbox::{Behaviour, Cut, FtpServer, Passive, Security};
use tokio::net::TcpListener;
use transfer::error::chain;
use transfer::ftp::{FtpConfig, FtpConnector, Secret};
use transfer::memory::MemorySource;
use transfer::road::{Addresses, Proxy, Resolver, SystemResolver};
use transfer::sftp::{SftpConfig, SftpConnector};
use transfer::{Connector, CreateOptions, ErrorKind, OpenMode};

use crate::harness::{Ferry, pattern};

/// Nobody else resolves it (RFC 2606).
const NAME: &str = "partner.invalid";
/// Public by its number; the proxy of these tests leads it to this machine, and nothing leaves it.
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8));
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const NEW: CreateOptions = CreateOptions { mode: OpenMode::CreateNew, read: false, permissions: None };

type Answer = &'static [IpAddr];

/// One answer for each question, the last one for all that follow. Nothing is a failure.
#[derive(Debug)]
struct Told {
    answers: Vec<Answer>,
    questions: AtomicUsize,
}

impl Told {
    fn new(answers: &[Answer]) -> Arc<Self> {
        Arc::new(Self { answers: answers.to_vec(), questions: AtomicUsize::new(0) })
    }

    fn questions(&self) -> usize {
        self.questions.load(SeqCst)
    }
}

#[async_trait]
impl Resolver for Told {
    async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        assert_eq!(host, NAME);
        let number = self.questions.fetch_add(1, SeqCst);
        match self.answers[number.min(self.answers.len() - 1)] {
            [] => Err(io::Error::other("temporary failure in name resolution")),
            addresses => Ok(addresses.iter().map(|address| SocketAddr::new(*address, port)).collect()),
        }
    }
}

/// Somebody of this machine's own network who must not hear of us.
struct Neighbour {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Neighbour {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let book = heard.clone();
        tokio::spawn(async move {
            while let Ok((_, from)) = listener.accept().await {
                book.lock().unwrap().push(from);
            }
        });
        Self { address, heard }
    }

    /// How many came before this call: one more comes after all of them, and is waited for.
    async fn visits(&self) -> usize {
        let last = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let own = last.local_addr().unwrap();
        loop {
            if let Some(at) = self.heard.lock().unwrap().iter().position(|from| *from == own) {
                return at;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn public_only(resolver: Arc<dyn Resolver>) -> Addresses {
    Addresses { allow_private: false, resolver }
}

fn endpoint(protocol: Protocol, host: &str, port: u16) -> Endpoint {
    Endpoint { protocol, host: host.to_owned(), port: Some(port), user: Some("u".to_owned()) }
}

fn sftp(host: &str, port: u16, addresses: Addresses) -> SftpConfig {
    let mut config = SftpConfig::new(endpoint(Protocol::Sftp, host, port));
    config.addresses = addresses;
    config.connect_timeout = Duration::from_secs(3);
    config
}

fn ftp(host: &str, port: u16, addresses: Addresses) -> FtpConfig {
    let mut config = FtpConfig::new(endpoint(Protocol::Ftp, host, port));
    config.addresses = addresses;
    config.password = Some(Secret::new("p"));
    config.connect_timeout = Duration::from_secs(3);
    config
}

fn connectors(host: &str, port: u16, addresses: &Addresses, bind: Option<IpAddr>) -> [Box<dyn Connector>; 2] {
    let (mut sftp, mut ftp) = (sftp(host, port, addresses.clone()), ftp(host, port, addresses.clone()));
    (sftp.bind, ftp.bind) = (bind, bind);
    [Box::new(SftpConnector::new(sftp)), Box::new(FtpConnector::new(ftp).unwrap())]
}

// SEMANTICS S45: "With `--allow-private=false` no server is connected to at an address that is not public: if its name or
// number leads to one, the copy fails with `policy_denied`, and the address that was judged is the one connected to."
#[tokio::test]
async fn a_private_address_is_refused_in_every_form_and_nobody_is_connected_to() {
    let neighbour = Neighbour::new().await;
    let port = neighbour.address.port();
    let system = public_only(Arc::new(SystemResolver));
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0",
        "localhost",
        "::1",
        "[::1]",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::",
        "64:ff9b::127.0.0.1",
        "10.0.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "fd00::1",
        "fe80::1",
        "224.0.0.1",
    ] {
        for connector in connectors(host, port, &system, None) {
            let error = connector.connect().await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::PolicyDenied, "{host}: {}", chain(&error));
            assert!(!error.is_retryable() && chain(&error).contains("allow_private"), "{}", chain(&error));
        }
    }
    // One of several addresses is enough, wherever it stands.
    for answer in [&[PUBLIC, LOOPBACK][..], &[LOOPBACK, PUBLIC]] {
        for connector in connectors(NAME, port, &public_only(Told::new(&[answer])), Some(LOOPBACK)) {
            assert_eq!(connector.connect().await.unwrap_err().kind, ErrorKind::PolicyDenied);
        }
    }
    assert_eq!(neighbour.visits().await, 0);
    // The same where it is allowed, which is what a person at this machine has without saying so.
    for connector in connectors("127.0.0.1", port, &Addresses::default(), None) {
        assert_eq!(connector.connect().await.unwrap_err().kind, ErrorKind::DestUnreachable);
    }
    assert_eq!(neighbour.visits().await, 3, "the two, and our own visit before them");
}

#[tokio::test]
async fn the_first_jump_host_is_judged_like_a_server() {
    let neighbour = Neighbour::new().await;
    let addresses = public_only(Arc::new(SystemResolver));
    let mut config = sftp(NAME, 22, addresses.clone());
    config.jumps = vec![SftpConfig { jump_host: true, ..sftp("127.0.0.1", neighbour.address.port(), addresses) }];
    let error = SftpConnector::new(config).connect().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PolicyDenied, "{}", chain(&error));
    assert_eq!(neighbour.visits().await, 0);
}

/// Whoever owns a name can let it point elsewhere between two questions, so there is one question: what was judged is what
/// is connected to. From a loopback address nothing gets to a public one, and the system says so at once.
#[tokio::test]
async fn a_name_that_is_bound_anew_leads_nobody_to_the_private_address() {
    let neighbour = Neighbour::new().await;
    let port = neighbour.address.port();
    for number in 0..2 {
        let told = Told::new(&[&[PUBLIC], &[LOOPBACK]]);
        let connector = &connectors(NAME, port, &public_only(told.clone()), Some(LOOPBACK))[number];
        let error = connector.connect().await.unwrap_err();
        assert_eq!((error.kind, told.questions()), (ErrorKind::DestUnreachable, 1), "{}", chain(&error));
        assert!(chain(&error).contains(&format!("{PUBLIC}:{port}")), "{}", chain(&error));
        let error = connector.connect().await.unwrap_err();
        assert_eq!((error.kind, told.questions()), (ErrorKind::PolicyDenied, 2), "{}", chain(&error));
    }
    assert_eq!(neighbour.visits().await, 0);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_a_passing_trouble() {
    let told = Told::new(&[&[]]);
    for connector in connectors(NAME, 9, &public_only(told.clone()), None) {
        let error = connector.connect().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::DestUnreachable, "{}", chain(&error));
        assert!(error.is_retryable() && chain(&error).contains("was not resolved"), "{}", chain(&error));
    }
    assert_eq!(told.questions(), 2);
}

/// A server at a public address: the proxy leads there, and tells what it was asked for.
struct Away {
    server: FtpServer,
    proxy: ForwardProxy,
}

impl Away {
    async fn new(behaviour: Behaviour) -> Self {
        let server = FtpServer::builder().security(Security::Clear).behaviour(behaviour).start().await.unwrap();
        let names = HashMap::from([(PUBLIC.to_string(), Ipv4Addr::LOCALHOST)]);
        let proxy = ForwardProxy::start(ForwardOptions { names, ..ForwardOptions::default() }).await.unwrap();
        Self { server, proxy }
    }

    fn connector(&self, told: &Arc<Told>) -> FtpConnector {
        let mut config = ftp(NAME, self.server.address().port(), public_only(told.clone()));
        config.endpoint.user = Some(self.server.user().to_owned());
        config.password = Some(Secret::new(self.server.password()));
        let (address, password) = ProxyAddress::parse(&format!("socks5://{}", self.proxy.address())).unwrap();
        config.proxy = Some(Proxy { address, password });
        FtpConnector::new(config).unwrap()
    }

    fn everything_went_to_the_public_address(&self) {
        let targets = self.proxy.targets();
        assert!(!targets.is_empty() && targets.iter().all(|target| target.starts_with(&format!("{PUBLIC}:"))), "{targets:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_a_public_server_never_go_to_a_private_address_that_it_names() {
    let neighbour = Neighbour::new().await;
    for epsv in [true, false] {
        let passive = Passive { epsv, address: Some(Ipv4Addr::LOCALHOST), epsv_address: Some(LOOPBACK), ..Passive::default() };
        let away = Away::new(Behaviour { passive, ..Behaviour::default() }).await;
        let told = Told::new(&[&[PUBLIC], &[LOOPBACK]]);
        let connection = away.connector(&told).connect().await.unwrap();
        let path = |name: &str| RemotePath::root().join(name).unwrap();
        let writer = connection.open(&path("f"), NEW).await.unwrap();
        writer.write_at(0, Bytes::from_static(b"content")).await.unwrap();
        writer.close().await.unwrap();
        assert_eq!(std::fs::read(away.server.file("f")).unwrap(), b"content");
        assert!(away.proxy.targets().len() >= 2 && told.questions() == 1, "{:?}", away.proxy.targets());
        away.everything_went_to_the_public_address();
    }
    assert_eq!(neighbour.visits().await, 0);
}

fn ferry(away: &Away, told: &Arc<Told>) -> Ferry {
    let source = MemorySource::new();
    for (key, size) in [("a", 900_000), ("b", 3_000_001), ("c", 17)] {
        source.put(key, pattern(size));
    }
    let mut ferry = Ferry::new(Arc::new(source), Arc::new(away.connector(told)), "/");
    ferry.tuning.range_size = 256 << 10;
    ferry.tuning.connections = Some(1);
    // A file may be the one that finds the name unresolved each time.
    ferry.tuning.backoff.attempts = 5;
    ferry
}

/// The connection ends in the middle of the large file, once.
fn cut_once() -> Behaviour {
    Behaviour { cut: Some(Cut::MidData(1_500_000)), cut_times: 1, ..Behaviour::default() }
}

const KEYS: [&str; 3] = ["a", "b", "c"];

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_survives_a_name_server_that_comes_and_goes() {
    let away = Away::new(cut_once()).await;
    let told = Told::new(&[&[], &[PUBLIC], &[], &[], &[PUBLIC]]);
    let ferry = ferry(&away, &told);
    ferry.run(&KEYS).await.unwrap();
    for (number, key) in KEYS.into_iter().enumerate() {
        let kept = ferry.records.kept(number as u32);
        assert_eq!(kept.finished.map(|finished| finished.state), Some(FileState::Delivered), "{key}: {:?}", kept.failed);
    }
    assert!(told.questions() >= 5, "{}", told.questions());
    away.everything_went_to_the_public_address();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_server_turns_private_stops_at_once_and_goes_on_when_it_is_public_again() {
    let away = Away::new(cut_once()).await;
    let told = Told::new(&[&[PUBLIC], &[LOOPBACK], &[PUBLIC]]);
    let ferry = ferry(&away, &told);
    let error = ferry.run(&KEYS).await.unwrap_err();
    assert_eq!((error.kind, told.questions()), (ErrorKind::PolicyDenied, 2), "{}", chain(&error));
    ferry.run(&KEYS).await.unwrap();
    assert!((0..3).all(|number| ferry.records.kept(number).finished.is_some()));
    away.everything_went_to_the_public_address();
}
