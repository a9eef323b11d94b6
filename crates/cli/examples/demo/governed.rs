//! The governed part: the service takes transfers under tickets, dies half-way, and goes on when it is started again.

use std::io::Write as _;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};

use super::{BIG, BUCKET, Stage, TINY, count_files, title};

/// A service that ends with the demonstration, also with one that fails.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Service {
    /// As Ctrl-C does.
    fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw).context("its process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        ensure!(self.0.wait()?.success(), "the service did not end well");
        Ok(())
    }
}

impl Stage {
    pub(super) async fn govern(&self) -> Result<()> {
        title("8. The service: governed transfers, each a workflow of eleven duties with a pair of tickets");
        let mut service = self.serve()?;
        self.introduce_partners()?;

        title("9. One GiB as a governed transfer: the service is killed half-way and started again");
        let before = self.sftp.recorder().bytes_written();
        let id = self.submit("outbound:big/one-gib.bin", "partner:")?;
        self.kill_at(&mut service.0, || self.sftp.recorder().bytes_written() - before >= BIG / 2).await?;
        ensure!(!self.file("governed/one-gib.bin").exists(), "half a file has its final name");
        println!(
            "\nkilled (kill -9) after {} MiB; under the final name there is nothing",
            (self.sftp.recorder().bytes_written() - before) >> 20
        );
        let service = self.serve()?;
        self.expect(0, &["transfer", "watch", &id])?;
        self.same("big/one-gib.bin", "governed/one-gib.bin")?;
        let all = self.sftp.recorder().bytes_written() - before;
        println!("sent again because of the kill: {:.1} MiB", all.saturating_sub(BIG) as f64 / (1 << 20) as f64);

        title("10. What its workflow went through, the kill included");
        self.expect(0, &["workflow", "show", &id])?;
        self.expect(0, &["transfer", "show", &id])?;

        title("11. Three thousand files are one transfer: one approval, one pair of tickets, one notice");
        self.expect(0, &["transfer", "submit", "outbound:tiny/", "partner:tiny/", "--wait"])?;
        ensure!(count_files(&self.file("governed/tiny"))? == TINY, "every tiny file is there");
        let notices = std::fs::read_to_string(self.home.path().join("notices.jsonl")).context("the notices of the service")?;
        println!("\nnotices that were sent: {}", notices.lines().count());

        title("12. A transfer that somebody else must approve waits, and its own user cannot approve it");
        self.expect(0, &["connector", "add", "board", &self.url("/governed/"), "--allow-private", "--approval", "second-person"])?;
        let held = self.submit("outbound:contract.pdf", "board:")?;
        self.expect(7, &["transfer", "approve", &held])?;
        ensure!(!self.file("governed/contract.pdf").exists(), "bytes were sent without an approval");
        self.expect(0, &["transfer", "cancel", &held])?;

        title("13. Who did what, from the request to the last ticket, and that nobody has changed it since");
        self.expect(0, &["audit", "show", &id])?;
        self.expect(0, &["audit", "verify"])?;

        service.stop()
    }

    /// Starts the service and waits until it answers.
    fn serve(&self) -> Result<Service> {
        let notices = self.home.path().join("notices.jsonl");
        let notices = notices.to_str().context("the temporary directory has a plain name")?;
        let mut service = Service(self.start(&["serve", "--notices", notices], true)?);
        let began = std::time::Instant::now();
        loop {
            let answers = self.command(&["transfer", "list"]).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success();
            if answers {
                return Ok(service);
            }
            if let Some(status) = service.0.try_wait()? {
                anyhow::bail!("the service ended at once: {status}");
            }
            ensure!(began.elapsed().as_secs() < 60, "the service did not answer within a minute");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    fn introduce_partners(&self) -> Result<()> {
        std::fs::create_dir_all(self.file("governed"))?;
        let endpoint = self.s3.endpoint();
        self.expect(0, &["source", "add", "outbound", &format!("s3://{BUCKET}/"), "--s3-endpoint", &endpoint])?;
        self.expect(0, &["connector", "add", "partner", &self.url("/governed/"), "--allow-private"])?;
        self.expect(0, &["connector", "test", "partner"])?;

        // A secret goes in by stdin; connectors and workflows hold its name only.
        println!("\n$ printf %s \"$BANK_PASSWORD\" | fileferry secret set bank");
        let mut set = self.command(&["secret", "set", "bank"]).stdin(Stdio::piped()).spawn()?;
        set.stdin.take().context("its standard input")?.write_all(self.ftps.password().as_bytes())?;
        ensure!(set.wait()?.success(), "the secret was not kept");
        let bank = format!("ftpes://{}@localhost:{}/in/", self.ftps.user(), self.ftps.address().port());
        let authority = self.ftps.authority().to_str().context("the temporary directory has a plain name")?;
        self.expect(0, &["connector", "add", "bank", &bank, "--password-from", "local:bank", "--ca-file", authority, "--allow-private"])?;
        self.expect(0, &["transfer", "submit", "outbound:reports/daily.csv", "bank:daily/", "--wait"])?;
        ensure!(self.ftps.file("/in/daily/daily.csv").exists(), "the bank has its file");
        Ok(())
    }

    /// Asks for a transfer and gives back its id.
    fn submit(&self, source: &str, destination: &str) -> Result<String> {
        println!("\n$ fileferry transfer submit {source} {destination}");
        let output = self.command(&["transfer", "submit", source, destination, "--json"]).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "the transfer was not taken: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let answer: serde_json::Value = serde_json::from_str(text.lines().next().context("an answer")?)?;
        let id = answer["transfer_id"].as_str().context("its id")?.to_owned();
        println!("transfer {id}: {}", answer["state"].as_str().unwrap_or_default());
        Ok(id)
    }
}
