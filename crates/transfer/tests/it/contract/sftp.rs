//! The suite over SFTP: OpenSSH, asyncssh and the sandbox in every set-up, each through our own client. Servers start
//! once per set-up; the set-ups are spread over several tests so that they run beside each other.

use testkit::asyncssh::AsyncsshOptions;
use testkit::sftp::Behaviour;

use super::{SetUp, check};
use crate::servers::{Partner, asyncssh, openssh, sandbox};

impl From<Partner> for SetUp {
    fn from(partner: Partner) -> Self {
        Self {
            connector: partner.connector(),
            name: partner.name,
            directory: partner.directory,
            lacks: partner.lacks,
            disk: partner.mode.map(|mode| (partner.disk, mode)),
            few_logins: partner.few_logins,
            guard: partner.guard,
        }
    }
}

/// Every `step`th set-up of OpenSSH, beginning with number `first`.
async fn check_openssh(first: usize, step: usize) {
    for (name, options) in testkit::sshd::set_ups().into_iter().skip(first).step_by(step) {
        if let Some(partner) = openssh(name, options).await {
            check(vec![partner.into()]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_keeps_the_contract_in_the_first_set_ups() {
    check_openssh(0, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_keeps_the_contract_in_the_second_set_ups() {
    check_openssh(1, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_keeps_the_contract_in_the_third_set_ups() {
    check_openssh(2, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asyncssh_keeps_the_contract() {
    for (name, options) in [("plain", AsyncsshOptions::default()), ("refuses posix-rename", AsyncsshOptions { refuses_posix_rename: true })]
    {
        if let Some(partner) = asyncssh(name, options).await {
            check(vec![partner.into()]).await;
        }
    }
}

async fn check_sandbox(first: usize, step: usize) {
    for (name, behaviour) in Behaviour::set_ups().into_iter().skip(first).step_by(step) {
        check(vec![sandbox(name, behaviour).await.into()]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_keeps_the_contract_in_the_even_set_ups() {
    check_sandbox(0, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_keeps_the_contract_in_the_odd_set_ups() {
    check_sandbox(1, 2).await;
}
