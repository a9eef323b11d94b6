//! The suite on the file system of this machine, by absolute paths and below the home directory.

use std::sync::Arc;

use model::RemotePath;
use transfer::local::LocalConnector;

use super::{SetUp, check};

pub fn set_ups() -> Vec<SetUp> {
    let absolute = tempfile::tempdir().expect("a temporary directory");
    let home = tempfile::tempdir().expect("a temporary directory");
    let path = absolute.path().to_str().expect("temporary paths are UTF-8");
    vec![
        SetUp {
            name: "file".to_owned(),
            connector: Arc::new(LocalConnector::new()),
            directory: RemotePath::from_user(path).expect("a valid path"),
            guard: Box::new(absolute),
        },
        SetUp {
            name: "file-home".to_owned(),
            connector: Arc::new(LocalConnector::with_home(Some(home.path().to_owned()))),
            directory: RemotePath::from_user("/~").expect("a valid path"),
            guard: Box::new(home),
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_this_machine_keep_the_contract() {
    check(set_ups()).await;
}
