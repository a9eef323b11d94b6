//! The suite over FTP and FTPS: four servers in every set-up, each through our own client. The set-ups of one server run
//! beside each other, a few at a time; the servers are spread over several tests.

use futures_util::StreamExt;
use testkit::ftp::FtpProgram;

use super::{SetUp, failures};
use crate::servers::ftp::FtpPartner;

/// Set-ups of one server at the same time; most of their time is waiting.
const AT_ONCE: usize = 4;

impl From<FtpPartner> for SetUp {
    fn from(partner: FtpPartner) -> Self {
        Self {
            connector: partner.connector(),
            name: partner.name,
            directory: partner.directory,
            lacks: partner.lacks,
            disk: None,
            few_logins: partner.few_logins,
            guard: Box::new(partner.server),
        }
    }
}

async fn check_program(program: FtpProgram) {
    let set_ups = futures_util::stream::iter(program.set_ups()).map(|(name, options)| async move {
        match FtpPartner::start(program, name, options).await {
            Some(partner) => failures(partner.into()).await,
            None => Vec::new(),
        }
    });
    let failures: Vec<String> = set_ups.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await.concat();
    assert!(failures.is_empty(), "{} contract cases failed:\n{}", failures.len(), failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vsftpd_keeps_the_contract() {
    check_program(FtpProgram::Vsftpd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proftpd_keeps_the_contract() {
    check_program(FtpProgram::Proftpd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pure_ftpd_keeps_the_contract() {
    check_program(FtpProgram::PureFtpd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pyftpdlib_keeps_the_contract() {
    check_program(FtpProgram::Pyftpdlib).await;
}
