//! The doors over a real Unix socket: what honest clients get, and what hostile ones cannot do.

mod hostile;
mod routes;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::Client;
use app::secrets::{KEY_BYTES, SealingKey, Vault};
use jiff::Timestamp;
use model::TransferId;
use runtime::Place;
use server::{Doors, Grants, Loops, Progress};
use store::Store;
use tokio_util::sync::CancellationToken;

/// Nothing runs behind these doors.
struct Nothing;

impl Loops for Nothing {
    fn wake(&self) {}

    fn wish(&self, _: &TransferId) {}

    fn progress(&self, _: &TransferId) -> Option<Progress> {
        None
    }
}

struct Service {
    data: tempfile::TempDir,
    client: Client,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

async fn service() -> Service {
    let data = tempfile::tempdir().unwrap();
    let store = Store::open_in_memory().await.unwrap();
    let key_file = data.path().join("secret-key");
    let vault = Vault::load(&store, runtime::sealing::load_or_create(&key_file).unwrap()).await.unwrap();
    let stop = CancellationToken::new();
    let doors = Doors {
        store,
        vault: Arc::new(vault),
        key_file,
        place: Place {
            state: data.path().to_owned(),
            home: data.path().to_owned(),
            login_name: None,
            ssh_agent: None,
            lease: app::transfers::LEASE,
            prompt: None,
            sealed: None,
        },
        loops: Arc::new(Nothing),
        grants: Grants::default(),
        started_at: Timestamp::now(),
        receipt_key: "SHA256:x".to_owned(),
        rekeying: tokio::sync::Mutex::default(),
        stop: stop.clone(),
    };
    let listener = server::listen(data.path(), false).unwrap();
    let served = tokio::spawn(server::serve(Arc::new(doors), listener));
    Service { client: Client::new(data.path()), data, stop, served }
}

impl Service {
    /// What the socket answers to these bytes, until it closes or is silent.
    async fn raw(&self, request: Vec<u8>) -> String {
        let socket = self.data.path().join(api::SOCKET);
        tokio::task::spawn_blocking(move || exchange(&socket, &request)).await.unwrap()
    }

    /// Status and body of one request.
    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}");
        let answer = self.raw(request.into_bytes()).await;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"));
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }
}

fn exchange(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // A refusal may come, and the connection end, before everything was sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

const JSON: &str = "content-type: application/json\r\n";

#[test]
fn a_sealing_key_prints_as_nothing() {
    assert!(!format!("{:?}", SealingKey::new(&[7; KEY_BYTES])).contains("7, 7"));
}
