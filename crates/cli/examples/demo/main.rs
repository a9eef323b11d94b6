//! `make demo`: a sandbox S3 store, a sandbox SFTP server and a strict FTPS server on loopback, and the real `fileferry` between them.
//! Every step checks what it shows, so the demonstration fails when the program does.

mod governed;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testkit::ftp_sandbox::{self as ftps, SessionReuse};
use testkit::s3::{Content, S3Server};
use testkit::sftp::{Corruption, CorruptionKind, SftpServer};

const BUCKET: &str = "outbound";
const BIG: u64 = 1 << 30;
const TINY: u64 = 3_000;
const LEDGER: u64 = 256 << 20;
const FEW: u64 = 40;

struct Stage {
    s3: S3Server,
    sftp: SftpServer,
    ftps: ftps::FtpServer,
    home: tempfile::TempDir,
    program: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let program = PathBuf::from(std::env::args_os().nth(1).context("usage: demo PATH-OF-FILEFERRY")?);
    let home = tempfile::tempdir()?;
    let inbox = home.path().join("partner");
    std::fs::create_dir_all(inbox.join("inbox"))?;
    let s3 = S3Server::start().await;
    let sftp = SftpServer::builder().root(&inbox).start().await?;
    let strict = ftps::Behaviour { tls_required: true, session_reuse: SessionReuse::Required(522), ..ftps::Behaviour::default() };
    let ftps = ftps::FtpServer::builder().root(home.path().join("bank")).behaviour(strict).start().await?;
    std::fs::create_dir_all(ftps.file("/in"))?;
    std::fs::write(home.path().join("known_hosts"), sftp.known_hosts_line() + "\n")?;
    fill(&s3);
    let stage = Stage { s3, sftp, ftps, home, program };
    stage.play().await
}

fn fill(s3: &S3Server) {
    let bucket = s3.bucket(BUCKET);
    bucket.put("reports/empty.csv", "");
    bucket.put("reports/daily.csv", Content::generated(1, 12_345));
    bucket.put("reports/monthly.csv", Content::generated(2, 3_000_000));
    for i in 0..TINY {
        bucket.put(&format!("tiny/{:02}/{i:05}.txt", i % 20), Content::generated(i, 200 + i % 4_000));
    }
    bucket.put("big/one-gib.bin", Content::generated(7, BIG));
    bucket.put("ledger/ledger.bin", Content::generated(8, LEDGER));
    for i in 0..FEW {
        bucket.put(&format!("ledger/parts/{i:04}.csv"), Content::generated(i, 500 + i % 9_000));
    }
    bucket.put("contract.pdf", Content::generated(9, 250_000));
}

impl Stage {
    async fn play(&self) -> Result<()> {
        title("A sandbox S3 store and a sandbox SFTP server are running on this machine");
        println!("store   {}  bucket {BUCKET}: an empty file, small ones, {TINY} tiny ones, one of 1 GiB", self.s3.endpoint());
        println!("partner sftp://{}@{}/inbox/  host key {}", self.sftp.user(), self.sftp.address(), self.sftp.host_key_fingerprint());

        title("1. A few files: sent under temporary names, read back, then renamed");
        self.expect(0, &["copy", "s3://outbound/reports/", &self.url("/inbox/")])?;
        ensure!(std::fs::metadata(self.file("inbox/empty.csv"))?.len() == 0, "the empty file is there");
        self.same("reports/monthly.csv", "inbox/monthly.csv")?;

        title("2. Three thousand tiny files share two connections");
        self.expect(0, &["copy", "s3://outbound/tiny/", &self.url("/inbox/tiny/"), "--mkdir", "--no-progress", "-q"])?;
        ensure!(count_files(&self.file("inbox/tiny"))? == TINY, "every tiny file is there");
        println!("{TINY} files delivered, each with a receipt");

        title("3. One GiB, killed half-way (kill -9), then resumed");
        self.kill_and_resume().await?;

        title("4. The same command again: nothing is sent");
        let before = self.sftp.recorder().bytes_written();
        self.expect(0, &["copy", "s3://outbound/big/one-gib.bin", &self.url("/inbox/one-gib.bin")])?;
        ensure!(self.sftp.recorder().bytes_written() == before, "the second run sent bytes");

        title("5. A server that stores one byte wrongly, and says all is well, is caught before the file gets its name");
        self.sftp.change(|b| b.corruption = Some(Corruption { kind: CorruptionKind::FlipByte { offset: 100_000 }, files: 2 }));
        self.expect(22, &["copy", "s3://outbound/contract.pdf", &self.url("/inbox/contract.pdf")])?;
        ensure!(!self.file("inbox/contract.pdf").exists(), "a spoiled file was published");
        self.sftp.change(|b| b.corruption = None);
        println!("\nwith the server mended, the same command delivers it:");
        self.expect(0, &["copy", "s3://outbound/contract.pdf", &self.url("/inbox/contract.pdf")])?;
        self.same("contract.pdf", "inbox/contract.pdf")?;

        title("6. A bank with strict FTPS: every data connection must resume the TLS session of its login");
        self.deliver_over_ftps().await?;

        title("7. Receipts: signed, and any changed byte shows");
        self.receipts()?;

        self.govern().await?;

        title("14. What the copies of this machine did");
        self.expect(0, &["history"])?;

        title("With your own servers");
        println!("  cargo build --release && export PATH=$PWD/target/release:$PATH");
        println!("  fileferry copy s3://YOUR-BUCKET/outbound/report.csv sftp://YOU@partner.example/inbox/");
        println!("  fileferry copy s3://YOUR-BUCKET/outbound/ sftp://YOU@partner.example/inbox/ --identity ~/.ssh/id_ed25519");
        println!("  fileferry copy s3://YOUR-BUCKET/outbound/ ftpes://YOU@partner.example/inbox/ --password-from env:PASSWORD");
        println!("  fileferry copy … --host-key SHA256:…     # instead of known_hosts, once the partner confirmed it");
        println!("  fileferry copy … --dry-run               # what would be sent, under which names");
        println!("  fileferry resume                         # after anything went wrong");
        println!("  fileferry serve                          # the service; docs/guide/service.md has its first ten lines");
        Ok(())
    }

    async fn kill_and_resume(&self) -> Result<()> {
        let url = self.url("/inbox/one-gib.bin");
        let before = self.sftp.recorder().bytes_written();
        let mut child = self.start(&["copy", "s3://outbound/big/one-gib.bin", &url], false)?;
        self.kill_at(&mut child, || self.sftp.recorder().bytes_written() - before >= BIG / 2).await?;
        let sent = self.sftp.recorder().bytes_written() - before;
        println!(
            "\nkilled after {} MiB; under the final name there is {}",
            sent >> 20,
            if self.file("inbox/one-gib.bin").exists() { "a file" } else { "nothing" }
        );
        ensure!(!self.file("inbox/one-gib.bin").exists(), "half a file has its final name");
        self.expect(0, &["resume"])?;
        let all = self.sftp.recorder().bytes_written() - before;
        println!("sent again because of the kill: {:.1} MiB", (all - BIG) as f64 / (1 << 20) as f64);
        self.same("big/one-gib.bin", "inbox/one-gib.bin")
    }

    /// Kills the copy as soon as `reached` says so.
    async fn kill_at(&self, child: &mut Child, reached: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !reached() {
            ensure!(Instant::now() < deadline, "half of the file took more than two minutes");
            if let Some(status) = child.try_wait()? {
                bail!("the copy ended before it could be killed: {status}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// A prefix with one large file and many small ones, killed half-way and resumed, over FTP with TLS.
    async fn deliver_over_ftps(&self) -> Result<()> {
        let url = format!("ftpes://{}@localhost:{}/in/", self.ftps.user(), self.ftps.address().port());
        println!("partner {url}  certificate {}", self.ftps.fingerprint());
        let authority = self.ftps.authority().to_str().context("the temporary directory has a plain name")?;
        let arguments = ["copy", "s3://outbound/ledger/", &url, "--mkdir", "--ca-file", authority, "--password-from", "env:BANK_PASSWORD"];
        let mut child = self.start(&arguments, false)?;
        self.kill_at(&mut child, || self.ftps.recorder().bytes_received() > LEDGER / 2).await?;
        ensure!(!self.ftps.file("/in/ledger.bin").exists(), "half a file has its final name");
        println!("\nkilled after {} MiB; under the final name there is nothing", self.ftps.recorder().bytes_received() >> 20);
        self.expect(0, &["resume"])?;
        let content = self.s3.bucket(BUCKET).get("ledger/ledger.bin").context("the object is there")?;
        let there = std::fs::read(self.ftps.file("/in/ledger.bin"))?;
        ensure!(content.read(0..LEDGER) == there[..], "ledger.bin differs");
        ensure!(count_files(&self.ftps.file("/in/parts"))? == FEW, "every small file is there");
        let fresh = self.ftps.recorder().data().iter().filter(|seen| !seen.tls.as_ref().is_some_and(|tls| tls.resumed)).count();
        ensure!(fresh == 0, "{fresh} data connections did not resume the session of their login");
        println!("compared byte by byte with the store: ledger.bin is whole; {FEW} small files are there");
        println!("{} data connections, every one resumed its login's TLS session", self.ftps.recorder().data().len());
        Ok(())
    }

    fn receipts(&self) -> Result<()> {
        let receipts = self.home.path().join("receipts.jsonl");
        let path = receipts.to_str().context("the temporary directory has a plain name")?;
        self.expect(0, &["copy", "s3://outbound/reports/daily.csv", &self.url("/inbox/again/"), "--mkdir", "--receipt", path])?;
        println!("\n{}", std::fs::read_to_string(&receipts)?.trim());
        self.expect(0, &["receipt", "verify", path])?;
        let forged = std::fs::read_to_string(&receipts)?.replace("\"size\":12345", "\"size\":12346");
        std::fs::write(&receipts, forged)?;
        self.expect(22, &["receipt", "verify", path])
    }

    fn url(&self, path: &str) -> String {
        format!("sftp://{}@{}{path}", self.sftp.user(), self.sftp.address())
    }

    fn file(&self, path: &str) -> PathBuf {
        self.sftp.root().join(path)
    }

    /// Compares what lies at the partner's with the object, without trusting anything that the program said.
    fn same(&self, key: &str, path: &str) -> Result<()> {
        let content = self.s3.bucket(BUCKET).get(key).context("the object is there")?;
        let there = std::fs::read(self.file(path)).with_context(|| format!("{path} at the partner's"))?;
        ensure!(there.len() as u64 == content.len() && content.read(0..content.len()) == there[..], "{path} differs from {key}");
        println!("compared byte by byte with the store: {path} is whole");
        Ok(())
    }

    fn expect(&self, code: i32, arguments: &[&str]) -> Result<()> {
        let status: ExitStatus = self.start(arguments, true)?.wait()?;
        ensure!(status.code() == Some(code), "expected exit code {code}, got {status}");
        if code != 0 {
            println!("(exit code {code}, as it should be)");
        }
        Ok(())
    }

    fn start(&self, arguments: &[&str], quiet_input: bool) -> Result<Child> {
        println!("\n$ fileferry {}", arguments.join(" "));
        let mut command = self.command(arguments);
        if quiet_input {
            command.stdin(Stdio::null());
        }
        command.spawn().with_context(|| format!("start {}", self.program.display()))
    }

    /// The program in a home of its own.
    fn command(&self, arguments: &[&str]) -> Command {
        let home = self.home.path();
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("HOME", home)
            .env("XDG_STATE_HOME", home.join("state"))
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("AWS_ACCESS_KEY_ID", "sandbox")
            .env("AWS_SECRET_ACCESS_KEY", "sandbox")
            .env("AWS_REGION", "us-east-1")
            .env("FILEFERRY_S3_ENDPOINT", self.s3.endpoint())
            .env("FILEFERRY_IDENTITY", self.sftp.client_key())
            .env("FILEFERRY_KNOWN_HOSTS", home.join("known_hosts"))
            .env("BANK_PASSWORD", self.ftps.password())
            .env_remove("SSH_AUTH_SOCK");
        command
    }
}

fn count_files(directory: &Path) -> Result<u64> {
    let mut count = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

fn title(text: &str) {
    println!("\n\x1b[1m== {text}\x1b[0m");
}
