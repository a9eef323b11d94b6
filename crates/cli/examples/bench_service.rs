//! `make bench-service`: 1,000 one-file transfers, then one transfer of 1,000 files of 64 KiB, through a whole service: HTTP in,
//! workflow, SFTP server out. Prints files a second and the memory of the service; fails below what was promised.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use api::Client;
use api::connectors::PutConnector;
use api::sources::PutSource;
use api::transfers::{SubmitTransfer, TransferOptions};
use model::{Name, TransferId, TransferState};
use serde_json::json;
use testkit::s3::S3Server;
use testkit::sftp::SftpServer;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

const FILES: usize = 1_000;
const SIZE: usize = 64 << 10;
/// Submissions at once.
const CLIENTS: usize = 16;
/// No run takes longer.
const LONGEST: Duration = Duration::from_secs(300);
/// Files a second that must be reached: one file a transfer, and all in one.
const LEAST: [f64; 2] = [100.0, 500.0];

#[tokio::main]
async fn main() -> Result<()> {
    let program = std::env::args().nth(1).context("usage: bench_service FILEFERRY")?;
    let home = tempfile::tempdir()?;
    let store = S3Server::start().await;
    let bucket = store.bucket("b");
    for number in 0..FILES {
        bucket.put(&format!("many/{number:04}"), vec![number as u8; SIZE]);
        bucket.put(&format!("one/{number:04}"), vec![number as u8; SIZE]);
    }
    let partner = SftpServer::builder().in_memory().start().await?;
    let data = home.path().join("data");
    let mut service = start(&program, home.path(), &data).await?;
    let client = Client::new(&data);
    set_up(&client, &store, &partner).await?;
    let pid = service.id().context("the service has ended")?;
    println!("service with {} in memory", memory(pid, "VmRSS")?);

    let began = Instant::now();
    let ids = submit_all(&client).await?;
    let submitted = began.elapsed();
    let half = memory(pid, "VmRSS")?;
    wait(&client, &ids, pid).await?;
    let single = report("1,000 transfers of one file", began.elapsed());
    println!("  submitted in {:.2} s; in memory {half} after that, {} at the end", submitted.as_secs_f64(), memory(pid, "VmRSS")?);

    let began = Instant::now();
    let id = client.submit(&submission("many", None), None).await?.transfer.transfer_id;
    wait(&client, &[id], pid).await?;
    let together = report("one transfer of 1,000 files", began.elapsed());
    println!("  in memory {}, at most {}", memory(pid, "VmRSS")?, memory(pid, "VmHWM")?);
    service.start_kill()?;
    service.wait().await?;
    for (got, least) in [single, together].into_iter().zip(LEAST) {
        ensure!(got >= least, "{got:.0} files a second, and {least:.0} were promised");
    }
    Ok(())
}

async fn start(program: &str, home: &Path, data: &Path) -> Result<Child> {
    let mut command = Command::new(program);
    command.args(["serve", "--json", "--data"]).arg(data).env_clear().env("HOME", home).env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("AWS_ACCESS_KEY_ID", "AKIATEST").env("AWS_SECRET_ACCESS_KEY", "secret").env("AWS_REGION", "us-east-1");
    let mut service = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().context(program.to_owned())?;
    let mut out = BufReader::new(service.stdout.take().context("no stdout")?);
    let mut line = String::new();
    out.read_line(&mut line).await?;
    ensure!(line.contains("serving"), "the service did not start: {line}");
    Ok(service)
}

async fn set_up(client: &Client, store: &S3Server, partner: &SftpServer) -> Result<()> {
    let url = format!("sftp://{}@{}/in/", partner.user(), partner.address());
    let server = json!({"identities": [partner.client_key()], "host_keys": [partner.host_key_fingerprint()], "allow_private": true});
    let settings = json!({"url": url, "server": server, "options": {"mkdir": "all"}, "limit": 64});
    client.put_connector(&name("partner"), &PutConnector { settings, version: Some(0) }).await?;
    let settings = json!({"bucket": "b", "s3": {"endpoint": store.endpoint()}});
    client.put_source(&name("orders"), &PutSource { settings, version: Some(0) }).await?;
    Ok(())
}

fn name(text: &str) -> Name {
    text.parse().expect("a name of ours")
}

/// One key of a prefix, or all of it.
fn submission(prefix: &str, number: Option<usize>) -> SubmitTransfer {
    SubmitTransfer {
        source: name("orders"),
        source_key: number.map(|number| format!("{prefix}/{number:04}")),
        source_keys: None,
        source_prefix: number.is_none().then(|| format!("{prefix}/")),
        connector: name("partner"),
        destination_path: Some(format!("{prefix}/")),
        priority: None,
        options: TransferOptions::default(),
    }
}

async fn submit_all(client: &Client) -> Result<Vec<TransferId>> {
    let room = Arc::new(Semaphore::new(CLIENTS));
    let mut under_way = Vec::new();
    for number in 0..FILES {
        let (client, place) = (client.clone(), room.clone().acquire_owned().await?);
        under_way.push(tokio::spawn(async move {
            let submitted = client.submit(&submission("one", Some(number)), None).await;
            drop(place);
            submitted
        }));
    }
    let mut ids = Vec::with_capacity(FILES);
    for submitted in under_way {
        ids.push(submitted.await??.transfer.transfer_id);
    }
    Ok(ids)
}

/// Until all are completed, looking at one at a time so that looking costs little.
async fn wait(client: &Client, ids: &[TransferId], pid: u32) -> Result<()> {
    let began = Instant::now();
    for id in ids {
        loop {
            let transfer = client.transfer(id).await?;
            match transfer.state {
                TransferState::Completed => break,
                TransferState::Pending | TransferState::InProgress => {}
                state => anyhow::bail!("transfer {id} is {state}: {:?} {:?}", transfer.waiting, transfer.error),
            }
            ensure!(began.elapsed() < LONGEST, "not done after {LONGEST:?}; {} in memory", memory(pid, "VmRSS")?);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

fn report(what: &str, took: Duration) -> f64 {
    let rate = FILES as f64 / took.as_secs_f64();
    println!("{what}: {:.2} s, {rate:.0} files a second", took.as_secs_f64());
    rate
}

fn memory(pid: u32, field: &str) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(field)).context("no such field")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(format!("{:.1} MiB", kib as f64 / 1024.0))
}
