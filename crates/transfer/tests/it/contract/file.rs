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
        SetUp::able("file", Arc::new(LocalConnector::new()), RemotePath::from_user(path).expect("a valid path"), Box::new(absolute)),
        SetUp::able(
            "file-home",
            Arc::new(LocalConnector::with_home(Some(home.path().to_owned()))),
            RemotePath::from_user("/~").expect("a valid path"),
            Box::new(home),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_this_machine_keep_the_contract() {
    check(set_ups()).await;
}
