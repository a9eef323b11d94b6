//! Cases B5 and B6: FTPS over slow lines and lines that end in the middle, and servers that must not be trusted. What the
//! client says about certificates is in `ftp::trust`, about answers to AUTH in `hostile_ftp`.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use testkit::certificates::CertificateKind;
use testkit::ftp::{FtpProgram, FtpSecurity, FtpServerOptions, FtpTlsVersion};
use testkit::ftp_sandbox::{Action, Behaviour, DataEnd, DataStep, Event, Security, TlsVersions};
use testkit::proxy::{self, Counted, Direction, How, Opener, Rewrite, Scope};
use transfer::ErrorKind;
use transfer::ftp::{FtpConfig, TlsVersion};

use super::{Cargo, Harbour, Voyage, able, each, real_config, resuming};

const REQUIRED: FtpSecurity = FtpSecurity::Explicit { required: true };

fn only_13(mut config: FtpConfig) -> FtpConfig {
    config.tls.minimum = Some(TlsVersion::V1_3);
    config
}

// B5. Mutation: `Line::finish` reads to the end for one second only, or drops the data connection after close_notify.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_file_survives_a_slow_line_under_tls_1_3() {
    let runs: usize = std::env::var("FILEFERRY_B5").map_or(2, |runs| runs.parse().expect("FILEFERRY_B5 is a number"));
    each(FtpProgram::ALL, 4, async |program| {
        let options = FtpServerOptions { security: REQUIRED, ..resuming(program) };
        let Some(harbour) = Harbour::new(program, options, &[]).await else { return };
        // Each has 1 Mbit/s; most of a file lies in sockets when its last byte has been written.
        harbour.proxy.on(Scope::Data).rate_per_connection(Direction::ToServer, Some(125_000));
        let begun = Instant::now();
        each(0..runs, runs, async |number| {
            let directory = format!("run-{number}");
            let root = format!("{}/{directory}", harbour.server.directory().trim_end_matches('/'));
            let mut config = only_13(harbour.config());
            (config.stall_timeout, config.reply_timeout) = (Duration::from_secs(60), Duration::from_secs(30));
            let connector = transfer::ftp::FtpConnector::new(config).unwrap();
            let mut cargo =
                Cargo::new(connector, &root, harbour.server.root().join(directory), harbour.server.password(), &[("a", 500_001)]);
            cargo.ferry.wishes.make_root = true;
            tokio::time::timeout(Duration::from_secs(120), cargo.ferry.run(&["a"])).await.expect("it ends").unwrap();
            let delivery = cargo.delivered("a", program.name());
            assert_eq!((delivery.attempts, delivery.bytes_sent), (1, 500_001), "{}: {:?}", program.name(), delivery.notes);
        })
        .await;
        println!("{}: {runs} of {runs} files whole in {:?}", program.name(), begun.elapsed());
        let carriers = harbour.proxy.connections().into_iter().filter(|c| c.passive && c.to_server > 500_000).count();
        assert_eq!(carriers, runs, "{}: sent more than once", program.name());
    })
    .await;
}

// B5. Mutation: `Line::finish` does not shut TLS down, or drops the stream unread after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_upload_ends_with_the_end_of_tls_and_never_with_a_reset() {
    each([TlsVersions::Only12, TlsVersions::Only13], 2, async |tls| {
        let behaviour = Behaviour { tls, rate: Some(1_000_000), close_notify_required: true, ..able() };
        let voyage = Voyage::secured(Security::Explicit, behaviour, &[("large", 2_000_000), ("small", 30_000)]).await;
        voyage.run().await.unwrap();
        voyage.assert_delivered(&format!("{tls:?}"));
        let uploads = voyage.server.recorder().data().into_iter().filter(|data| data.verb == "STOR").collect::<Vec<_>>();
        assert!(uploads.len() >= 4, "{uploads:?}");
        for data in uploads {
            assert_eq!(data.end, DataEnd::CloseNotify, "{tls:?}: {data:?}");
            assert!(data.tls.is_some());
        }
        assert_eq!(voyage.sent_again(), super::PROBE);
    })
    .await;
}

// B6. Mutation: an end without close_notify is an end (`Line::read` does not ask for the size), or 226 alone is trusted
// (`finish_file` compares no size and nothing is read back).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_end_is_no_end() {
    let size = 2_000_000;
    let mut cases = Vec::new();
    for program in FtpProgram::ALL {
        for direction in [Direction::ToServer, Direction::ToClient] {
            cases.extend([size as u64 / 2, size as u64].map(|at| (program, direction, at)));
        }
    }
    each(cases, 4, async |(program, direction, at)| {
        let which = format!("{} {direction:?} at {at}", program.name());
        let options = FtpServerOptions { security: REQUIRED, ..resuming(program) };
        let Some(mut harbour) = Harbour::new(program, options, &[("large", size)]).await else { return };
        harbour.connect_with(only_13(harbour.config()));
        harbour.proxy.on(Scope::Data).rule(direction, Counted::OverAll, at, proxy::Action::Cut(How::HalfClose));
        harbour.run().await.unwrap();
        harbour.assert_delivered(&which);
    })
    .await;
    // A download of the proof that ends early, in good order as far as TCP knows.
    for length in [0, 100_000, 1_900_000] {
        let voyage = Voyage::secured(Security::Explicit, able(), &[("large", size)]).await;
        let content = voyage.source.bytes("large").unwrap().slice(..length);
        voyage.once("RETR", 1, Action::Data(vec![DataStep::Send(content), DataStep::Close]));
        voyage.run().await.unwrap();
        voyage.assert_delivered("download");
        assert_eq!(voyage.sent_again(), super::PROBE, "an early end of the proof is no reason to send again");
    }
}

/// Keeps what passes.
struct Tap(Arc<Mutex<Vec<u8>>>);

#[async_trait]
impl Rewrite for Tap {
    async fn rewrite(&mut self, chunk: Bytes, _opener: &Opener) -> Bytes {
        self.0.lock().unwrap().extend_from_slice(&chunk);
        chunk
    }
}

fn holds(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

// B6. Mutation: a refused AUTH or PROT P goes on in clear text, or a pin is not compared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_cannot_be_trusted_gets_no_password_and_no_file() {
    let stranger = testkit::ftp_sandbox::FtpServer::builder().start().await.unwrap();
    type Change = fn(&mut FtpConfig, &std::path::Path);
    let nothing: Change = |_, _| {};
    let distrust: [(&str, Behaviour, Change); 6] = [
        ("AUTH refused", Behaviour { auth: false, ..able() }, nothing),
        ("PROT P refused", Behaviour { prot_p: false, ..able() }, nothing),
        ("TLS too old", Behaviour { tls: TlsVersions::Only12, ..able() }, |config, _| config.tls.minimum = Some(TlsVersion::V1_3)),
        ("another authority", able(), |config, other| config.tls.ca_files = vec![other.to_owned()]),
        ("another pin", able(), |config, _| config.tls.pins = vec!["ab".repeat(32)]),
        ("another host", able(), |config, _| config.endpoint.host = "127.0.0.3".to_owned()),
    ];
    for (what, behaviour, change) in distrust {
        let mut voyage = Voyage::secured(Security::Explicit, behaviour, &[("large", 2_000_000), ("small", 100)]).await;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let tap = seen.clone();
        voyage.proxy.rewrite(Direction::ToServer, move || Box::new(Tap(tap.clone())));
        let mut config = voyage.config();
        change(&mut config, stranger.authority());
        if what == "another host" {
            // The same server under an address that its certificate does not name.
            let server = testkit::ftp_sandbox::FtpServer::builder()
                .listen_on([127, 0, 0, 3].into())
                .password(super::CANARY)
                .security(Security::Explicit)
                .start()
                .await
                .unwrap();
            config.endpoint.port = Some(server.address().port());
            config.tls.ca_files = vec![server.authority().to_owned()];
            voyage.server = Arc::new(server);
        }
        voyage.connect_with(config);
        let error = tokio::time::timeout(super::BOUND, voyage.ferry.run(&voyage.keys)).await.unwrap().unwrap_err();
        assert_eq!(error.kind, ErrorKind::DestTls, "{what}: {}", transfer::error::chain(&error));
        let recorder = voyage.server.recorder();
        // With PROT P it may be too late: nothing but an encrypted login has gone by then.
        let passwords = recorder.passwords.load(SeqCst);
        assert!(passwords == 0 || what == "PROT P refused" && passwords == 1, "{what}: {passwords} passwords");
        assert_eq!(recorder.clear_passwords.load(SeqCst), 0, "{what}");
        assert_eq!(recorder.count(|event| matches!(event, Event::Data(_))), 0, "{what}");
        let clear = seen.lock().unwrap();
        assert!(!holds(&clear, super::CANARY) && !holds(&clear, voyage.server.user()), "{what}: in clear text");
        assert_eq!(*voyage.ferry.records.connects.lock().unwrap(), [Err(ErrorKind::DestTls)], "{what}: tried once");
    }
}

// B6. Mutation: `Trust` asks for no valid name or time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_servers_with_wrong_certificates_get_no_password() {
    let kinds = [
        Some(CertificateKind::Expired),
        Some(CertificateKind::WrongHost),
        Some(CertificateKind::SelfSigned),
        // Its TLS is older than what was asked for.
        None,
    ];
    each(kinds, 4, async |kind| {
        let which = format!("{kind:?}");
        let tls_version = if kind.is_none() { FtpTlsVersion::Only12 } else { FtpTlsVersion::Any };
        let certificate = kind.unwrap_or(CertificateKind::Valid);
        let options = FtpServerOptions { security: REQUIRED, certificate, tls_version, ..FtpServerOptions::default() };
        let Some(mut harbour) = Harbour::new(FtpProgram::Vsftpd, options, &[("large", 2_000_000)]).await else { return };
        let config = real_config(&harbour.server, harbour.proxy.address());
        harbour.connect_with(if kind.is_none() { only_13(config) } else { config });
        let error = harbour.run().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::DestTls, "{which}: {}", transfer::error::chain(&error));
        let log = harbour.server.log();
        assert!(!log.contains("\"USER") && !log.contains("\"PASS"), "{which}: {log}");
        assert!(harbour.proxy.accepted() <= 2, "{which}: {} connections", harbour.proxy.accepted());
    })
    .await;
}
