//! A sandbox S3 store and a sandbox SFTP server that stay up until Enter is pressed, for trying commands by hand.

use anyhow::Result;
use testkit::s3::{Content, S3Server};
use testkit::sftp::SftpServer;

#[tokio::main]
async fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    std::fs::create_dir_all(directory.path().join("partner/inbox"))?;
    let s3 = S3Server::start().await;
    let bucket = s3.bucket("outbound");
    bucket.put("one.csv", Content::generated(1, 12_345));
    bucket.put("big.bin", Content::generated(2, 1 << 30));
    for i in 0..200 {
        bucket.put(&format!("many/{i:03}.txt"), Content::generated(i, 1_000 + i));
    }
    let sftp = SftpServer::builder().root(directory.path().join("partner")).start().await?;
    let known_hosts = directory.path().join("known_hosts");
    std::fs::write(&known_hosts, sftp.known_hosts_line() + "\n")?;
    println!("export AWS_ACCESS_KEY_ID=sandbox AWS_SECRET_ACCESS_KEY=sandbox AWS_REGION=us-east-1");
    println!("export FILEFERRY_S3_ENDPOINT={}", s3.endpoint());
    println!("export FILEFERRY_IDENTITY={}", sftp.client_key().display());
    println!("export FILEFERRY_KNOWN_HOSTS={}", known_hosts.display());
    println!("# fileferry copy s3://outbound/many/ sftp://{}@{}/inbox/", sftp.user(), sftp.address());
    println!("# password: {}; files arrive in {}", sftp.password(), directory.path().join("partner/inbox").display());
    println!("# press Enter to stop");
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    Ok(())
}
