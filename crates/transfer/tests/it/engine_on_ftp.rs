//! The engine against every FTP server that tests can start, plain and over TLS: what is delivered, what it claims, and
//! how it ends where a server refuses what publishing needs.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use model::{Clobber, FileState, Grade, IfExists, Publish, Verify};
use testkit::ftp::{FtpProgram, FtpSecurity, FtpServerOptions, FtpTlsVersion};
use testkit::proxy::{Direction, FaultProxy, How, Scope};
use transfer::ErrorKind;
use transfer::ftp::FtpConnector;
use transfer::memory::MemorySource;
use transfer::port::Delivery;

use crate::harness::{Ferry, Kept, pattern};
use crate::servers::ftp::{FtpPartner, config_at};
use crate::servers::{Need, make_directory};

const SMALL: usize = 60;
const RANGE: u64 = 512 << 10;

/// An empty file, small ones below a directory, one of many ranges.
static LOAD: LazyLock<(MemorySource, Vec<String>)> = LazyLock::new(|| {
    let source = MemorySource::new();
    let mut keys = Vec::new();
    let mut put = |key: String, size: usize| {
        source.put(&key, pattern(size));
        keys.push(key);
    };
    put("empty".to_owned(), 0);
    (0..SMALL).for_each(|number| put(format!("small/{number:03}"), number * 97 + 1));
    put("large".to_owned(), 9_000_001);
    (source, keys)
});

struct Run<'a> {
    partner: &'a FtpPartner,
    ferry: Ferry,
    disk: PathBuf,
    keys: Vec<&'a str>,
}

impl<'a> Run<'a> {
    fn new(partner: &'a FtpPartner, directory: &str, keys: Vec<&'a str>, if_exists: IfExists) -> Self {
        let root = partner.make_directory(directory);
        let mut ferry = Ferry::new(Arc::new(LOAD.0.clone()), partner.connector(), root.as_str());
        ferry.wishes.if_exists = if_exists;
        ferry.tuning.range_size = RANGE;
        Self { partner, ferry, disk: partner.disk().join(directory), keys }
    }

    fn all(partner: &'a FtpPartner, directory: &str) -> Self {
        Self::new(partner, directory, LOAD.1.iter().map(String::as_str).collect(), IfExists::Fail)
    }

    fn put_old(&self, key: &str) {
        let path = self.disk.join(key);
        std::fs::write(&path, b"old").unwrap();
        let owner = std::fs::metadata(&self.disk).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }

    fn is_old(&self, key: &str) -> bool {
        std::fs::read(self.disk.join(key)).unwrap() == b"old"
    }

    async fn go(&self) {
        let begun = Instant::now();
        loop {
            match self.ferry.run(&self.keys).await {
                Ok(()) => return,
                // The server has not cleared the session before away yet.
                Err(error) if self.partner.few_logins && error.kind.is_retryable() && begun.elapsed() < Duration::from_secs(10) => {}
                Err(error) => panic!("{}: {}", self.partner.name, transfer::error::chain(&error)),
            }
        }
    }

    fn kept(&self, key: &str) -> Kept {
        let number = self.keys.iter().position(|k| *k == key).expect("a key of this run");
        self.ferry.records.kept(number as u32)
    }

    /// The delivery of a file that is there, whole.
    fn delivered(&self, key: &str) -> Box<Delivery> {
        let (name, kept) = (&self.partner.name, self.kept(key));
        let finished = kept.finished.unwrap_or_else(|| panic!("{name}: {key} was not delivered: {:?}", kept.failed));
        assert_eq!(finished.state, FileState::Delivered, "{name}: {key}");
        let there = std::fs::read(self.disk.join(key)).unwrap();
        assert!(there == LOAD.0.bytes(key).unwrap(), "{name}: {key} is not what was sent");
        finished.delivery.expect("a delivered file has its facts")
    }

    fn no_temporary_file_is_left(&self) {
        let names = std::fs::read_dir(&self.disk).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let left: Vec<_> = names.filter(|name| name.contains(".ff-")).collect();
        assert!(left.is_empty(), "{}: {left:?}", self.partner.name);
    }
}

async fn check(partner: FtpPartner) {
    let begun = Instant::now();
    everything(&partner).await;
    an_existing_file(&partner).await;
    println!("engine on {}: {:.1} s", partner.name, begun.elapsed().as_secs_f64());
}

async fn everything(partner: &FtpPartner) {
    let mut run = Run::all(partner, "everything");
    run.go().await;
    if !partner.has(Need::Rename) {
        for key in &run.keys {
            let kept = run.kept(key);
            let (kind, text, left) = kept.failed.unwrap_or_else(|| panic!("{}: {key} did not fail", partner.name));
            assert_eq!(kind, ErrorKind::DestPublishFailed, "{}: {text}", partner.name);
            assert!(text.contains("--publish in-place"), "{}: {text}", partner.name);
            assert!(left.is_some() && !run.disk.join(key).exists(), "{}: {key}", partner.name);
        }
        run.ferry.wishes.publish = Publish::InPlace;
        run.go().await;
    }
    let tls = partner.server.options().tls();
    for key in &run.keys {
        let delivery = run.delivered(key);
        let least = if partner.has(Need::Read) { Grade::ReadBack } else { Grade::None };
        assert!(delivery.grade.satisfies(least), "{}: {key} {}", partner.name, delivery.grade);
        assert_eq!(delivery.identity.host_key.is_some(), tls, "{}", partner.name);
        if partner.has(Need::Rename) {
            assert_eq!(delivery.clobber, Clobber::Checked, "{}: {key}", partner.name);
        }
    }
    run.no_temporary_file_is_left();
}

async fn an_existing_file(partner: &FtpPartner) {
    if !partner.has(Need::Rename) || !partner.has(Need::Stat) {
        return;
    }
    for key in ["small/007", "large"] {
        let run = |policy: IfExists| {
            let run = Run::new(partner, &format!("{policy}-{}", key.replace('/', "-")), vec![key], policy);
            if key.starts_with("small/") {
                make_directory(&run.disk, "small", None);
            }
            run.put_old(key);
            run
        };
        let skip = run(IfExists::Skip);
        skip.go().await;
        assert_eq!(skip.kept(key).finished.map(|f| f.state), Some(FileState::Skipped), "{}: {:?}", partner.name, skip.kept(key).failed);
        assert!(skip.is_old(key));
        skip.no_temporary_file_is_left();

        let fail = run(IfExists::Fail);
        fail.go().await;
        assert_eq!(fail.kept(key).failed.expect("it fails").0, ErrorKind::DestExists, "{}", partner.name);
        assert!(fail.is_old(key));
        fail.no_temporary_file_is_left();

        let mut replace = run(IfExists::Replace);
        replace.go().await;
        if partner.has(Need::Replace) {
            assert_eq!(replace.delivered(key).clobber, Clobber::Replaced, "{}", partner.name);
        } else {
            // B3: ProFTPD's default. The old file is intact, the sent one kept, and the message says what to do.
            let (kind, text, kept) = replace.kept(key).failed.expect("it is refused");
            assert_eq!(kind, ErrorKind::DestExists, "{}: {text}", partner.name);
            assert!(text.contains("replace-unsafe") && kept.is_some(), "{}: {text}", partner.name);
            assert!(replace.is_old(key));
            replace.ferry.wishes.if_exists = IfExists::ReplaceUnsafe;
            replace.go().await;
            assert!(matches!(replace.delivered(key).clobber, Clobber::Unsafe { .. }), "{}", partner.name);
        }
        replace.no_temporary_file_is_left();
    }
}

async fn check_all(program: FtpProgram) {
    for (name, options) in program.set_ups() {
        if let Some(partner) = FtpPartner::start(program, name, options).await {
            check(partner).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vsftpd_gets_everything() {
    check_all(FtpProgram::Vsftpd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proftpd_gets_everything() {
    check_all(FtpProgram::Proftpd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pure_ftpd_gets_everything() {
    check_all(FtpProgram::PureFtpd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pyftpdlib_gets_everything() {
    check_all(FtpProgram::Pyftpdlib).await;
}

/// Six files, each with two data connections or more, where every data connection must resume the session of its login.
/// Mutation: one session store for all connections of a connector (ProFTPD refuses), or TLS 1.3 without a fresh login.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_transfers_pass_where_sessions_must_be_reused_over_one_connection_and_over_four() {
    for program in [FtpProgram::Vsftpd, FtpProgram::Proftpd] {
        for tls_version in [FtpTlsVersion::Only12, FtpTlsVersion::Only13] {
            for connections in [1, 4] {
                let options = FtpServerOptions {
                    security: FtpSecurity::Explicit { required: true },
                    tls_version,
                    require_session_reuse: true,
                    ..FtpServerOptions::default()
                };
                let name = format!("{tls_version:?}, {connections} connections, sessions reused");
                let Some(partner) = FtpPartner::start(program, &name, options).await else { continue };
                let keys = vec!["empty", "small/001", "small/031", "small/032", "small/059", "large"];
                let mut run = Run::new(&partner, "six", keys, IfExists::Fail);
                run.ferry.tuning.lanes = connections;
                run.go().await;
                for key in run.keys.clone() {
                    let grade = run.delivered(key).grade;
                    assert!(grade.satisfies(Grade::ReadBack), "{}: {key} {grade}", partner.name);
                }
                run.no_temporary_file_is_left();
            }
        }
    }
}

/// The data connection is cut in the middle of a large file, in the same process and before another one.
async fn cut_in_the_middle(program: FtpProgram, options: FtpServerOptions, resumes: bool) {
    let Some(partner) = FtpPartner::start(program, "cut in the middle", options).await else { return };
    let proxy = FaultProxy::mirror(partner.server.address(), partner.server.passive_ports()).await.unwrap();
    for how in [How::Fin, How::Rst] {
        let mut run = Run::new(&partner, &format!("cut-{how:?}"), vec!["large"], IfExists::Fail);
        run.ferry.connector = Arc::new(FtpConnector::new(config_at(&partner.server, proxy.address())).unwrap());
        run.ferry.wishes.verify = Verify::AtLeast(Grade::Sampled);
        run.ferry.tuning.backoff.base = Duration::from_millis(100);
        let before = proxy.bytes(Direction::ToServer);
        let rule = proxy.on(Scope::Data).cut_after(Direction::ToServer, 6_000_000, how);
        let watched = async {
            // Once is enough: the next connection must get through.
            while proxy.bytes(Direction::ToServer) - before < 6_000_000 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            rule.remove();
        };
        tokio::join!(run.go(), watched);
        let delivery = run.delivered("large");
        let sent = proxy.bytes(Direction::ToServer) - before;
        let name = &partner.name;
        if resumes {
            assert!(sent < 9_000_001 + 6_000_000, "{name} {how:?}: {sent} bytes passed the proxy, {:?}", delivery.notes);
            assert!(delivery.attempts == 1, "{name} {how:?}: {:?}", delivery.notes);
        } else {
            assert!(delivery.attempts > 1, "{name} {how:?}: {:?}", delivery.notes);
        }
        run.no_temporary_file_is_left();
    }
}

// D1. Mutation: `reopen_stream` returns `None`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_file_goes_on_where_the_server_has_it() {
    for security in [FtpSecurity::Clear, FtpSecurity::Explicit { required: true }] {
        for program in FtpProgram::ALL {
            let options = FtpServerOptions { security, permissive: program == FtpProgram::Proftpd, ..FtpServerOptions::default() };
            cut_in_the_middle(program, options, true).await;
        }
    }
}

// B3. Mutation: `learn_to_continue` takes the server's word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_file_starts_over_where_the_server_forbids_to_go_on() {
    cut_in_the_middle(FtpProgram::Proftpd, FtpServerOptions::default(), false).await;
}

/// The servers connect to us: EPRT, or PORT, and nothing passive. vsftpd's log has every command.
/// Mutation: `prepare` does not look at `config.active`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn active_mode_delivers_everything() {
    for security in [FtpSecurity::Clear, FtpSecurity::Explicit { required: true }] {
        for program in FtpProgram::ALL {
            let options = FtpServerOptions { security, ..FtpServerOptions::default() };
            let Some(partner) = FtpPartner::start(program, "active", options).await else { continue };
            let mut run = Run::new(&partner, "active", vec!["empty", "small/031", "large"], IfExists::Fail);
            let mut config = config_at(&partner.server, partner.server.address());
            config.active = true;
            run.ferry.connector = Arc::new(FtpConnector::new(config).unwrap());
            run.go().await;
            for key in run.keys.clone() {
                assert!(run.delivered(key).grade.satisfies(Grade::ReadBack), "{}: {key}", partner.name);
            }
            if program == FtpProgram::Vsftpd {
                let log = partner.server.log();
                let asked = |verb: &str| log.lines().any(|line| line.contains("FTP command:") && line.contains(&format!("\"{verb}")));
                assert!(asked("EPRT") && !asked("EPSV") && !asked("PASV"), "not active: {log}");
            }
            run.no_temporary_file_is_left();
        }
    }
}

/// Servers that ask for a certificate of ours get it, on data connections too; without it nothing is delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_is_shown_where_one_is_asked_for() {
    for program in [FtpProgram::Vsftpd, FtpProgram::Proftpd, FtpProgram::Pyftpdlib] {
        let options = FtpServerOptions {
            security: FtpSecurity::Explicit { required: true },
            client_certificate_required: true,
            ..FtpServerOptions::default()
        };
        let Some(partner) = FtpPartner::start(program, "client certificate", options).await else { continue };
        let mut run = Run::new(&partner, "certified", vec!["small/031", "large"], IfExists::Fail);
        let refused = run.ferry.run(&run.keys).await;
        assert!(refused.is_err() || run.kept("large").failed.is_some(), "{}: delivered without a certificate", partner.name);
        let files = partner.server.certificates().client().unwrap();
        let mut config = config_at(&partner.server, partner.server.address());
        config.tls.client_certificate = Some((files.certificate, files.key));
        run.ferry.connector = Arc::new(FtpConnector::new(config).unwrap());
        run.go().await;
        for key in run.keys.clone() {
            assert!(run.delivered(key).grade.satisfies(Grade::ReadBack), "{}: {key}", partner.name);
        }
    }
}
