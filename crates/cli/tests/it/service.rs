//! The service as its users meet it: the whole way, a second one, a kill, and secrets that nobody sees again.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Stdio};

use serde_json::Value;
use testkit::sftp::SftpServer;

use super::shop::{Shop, ended, files_below, shop, signal, wait_until};
use super::*;

const PASSWORD: &str = "hunter2-not-to-be-seen";

/// A service on a directory of its own; killed when it is dropped.
pub struct Served {
    pub child: Child,
    /// Everything it says, read so that it never waits for a reader.
    pub said: std::sync::Arc<std::sync::Mutex<String>>,
    /// Its first line; `null` when it ended before it could say one.
    pub serving: Value,
}

impl Served {
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(shop: &Shop, more: &[&str]) -> Served {
    serving(shop.command(&[&["serve", "-vv"], more].concat()), |_| {})
}

/// Waits until it serves.
pub fn serving(command: Command, begun: impl FnOnce(u32)) -> Served {
    let served = begin(command, begun);
    assert_eq!(served.serving["type"], "serving", "{}", served.said());
    served
}

/// Waits until it serves or has ended; `begun` is told its process before that.
pub fn begin(mut command: Command, begun: impl FnOnce(u32)) -> Served {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    begun(child.id());
    let said = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let mut first = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut err = child.stderr.take().unwrap();
    let heard = said.clone();
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = err.read(&mut piece) {
            heard.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    });
    out.read_line(&mut first).unwrap();
    let serving = serde_json::from_str(&first).unwrap_or_default();
    Served { child, said, serving }
}

/// A partner who takes a password, and a service that knows it, its server and the bucket.
pub async fn partner(shop: &Shop) -> SftpServer {
    let server = SftpServer::builder().password(PASSWORD).start().await.unwrap();
    std::fs::create_dir_all(server.file("/in")).unwrap();
    let mut set = shop.command(&["secret", "set", "partner"]);
    let mut child = set.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{PASSWORD}\n").as_bytes()).unwrap();
    done(Ran::of(child.wait_with_output().unwrap()));
    server
}

pub fn connect(shop: &Shop, server: &SftpServer, more: &[&str]) {
    let url = format!("sftp://{}@{}/in/", server.user(), server.address());
    done(
        shop.run(
            &[&["connector", "add", "partner", &url, "--password-from", "local:partner", "--allow-private", "--force"], more].concat(),
        ),
    );
    done(shop.run(&["connector", "trust", "partner", &server.host_key_fingerprint()]));
    let endpoint = shop.server.endpoint();
    done(shop.run(&["source", "add", "orders", "s3://b/out/", "--s3-endpoint", &endpoint, "--s3-region", "us-east-1", "--force"]));
}

pub fn done(ran: Ran) -> Ran {
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    ran
}

pub fn id_of(ran: &Ran) -> String {
    ran.objects()[0]["transfer_id"].as_str().unwrap().to_owned()
}

pub fn state(shop: &Shop, id: &str) -> Value {
    done(shop.run(&["transfer", "show", id])).objects().remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ten_lines_of_the_guide_deliver_a_file_with_proof() {
    let shop = shop().await;
    shop.bucket.put("out/a.csv", b"one,two\n".to_vec());
    let service = serve(&shop, &[]);
    let server = partner(&shop).await;
    connect(&shop, &server, &[]);
    let tested = done(shop.run(&["connector", "test", "partner"]));
    assert!(tested.objects().iter().any(|line| line["type"] == "tested"), "{}", tested.out);
    assert!(files_below(&server.file("/in")).is_empty(), "the scratch file is gone");

    let submitted = done(shop.run(&["transfer", "submit", "orders:out/a.csv", "partner:daily/"]));
    let id = id_of(&submitted);
    let watched = done(shop.run(&["transfer", "watch", &id]));
    assert_eq!(watched.objects().last().unwrap()["state"], "completed", "{}", watched.out);
    assert_eq!(files_below(&server.file("/in"))[b"daily/a.csv".as_slice()], b"one,two\n");

    let receipts = done(shop.run(&["transfer", "receipt", &id]));
    let file = shop.home.write("receipts.jsonl", &receipts.out);
    let key = service.serving["receipt_key"].as_str().unwrap().to_owned();
    let verified = done(shop.run(&["receipt", "verify", text(&file), "--key", &key]));
    assert!(verified.out.contains(r#""intact":1"#), "{}", verified.out);

    let shown = done(shop.run(&["workflow", "show", &id])).objects();
    let duties: Vec<&str> = shown.iter().filter(|line| line["type"] == "duty").filter_map(|line| line["duty"].as_str()).collect();
    for duty in ["ValidateInput", "AuthenticateSSO", "TransferToFTP", "UpdateServiceNow", "CleanupAndLogout", "TransferComplete"] {
        assert!(duties.contains(&duty), "{duty} is not among {duties:?}");
    }
    let finished = state(&shop, &id);
    assert!(finished["user_ticket"].is_string() && finished["files_done"] == 1, "{finished}");

    signal(service.child.id(), "TERM");
    let mut service = service;
    assert_eq!(service.child.wait().unwrap().code(), Some(0), "{}", service.said.lock().unwrap());
}

// SEMANTICS S74: "A connector that does not say `--allow-private` leads to public addresses only, as in S45."
// Mutation: `ConnectorSettings::reached` leaves the wish as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connector_leads_into_no_private_network_that_it_does_not_name() {
    let shop = shop().await;
    shop.bucket.put("out/a.csv", b"one,two\n".to_vec());
    let _service = serve(&shop, &[]);
    let neighbour = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    neighbour.set_nonblocking(true).unwrap();
    let url = format!("sftp://u@{}/in/", neighbour.local_addr().unwrap());
    done(shop.run(&["connector", "add", "inside", &url, "--host-key", "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"]));
    let endpoint = shop.server.endpoint();
    done(shop.run(&["source", "add", "orders", "s3://b/out/", "--s3-endpoint", &endpoint, "--s3-region", "us-east-1"]));
    for arguments in [&["connector", "test", "inside"][..], &["transfer", "submit", "orders:out/a.csv", "inside", "--wait"]] {
        let ran = shop.run(arguments);
        assert_eq!(ran.code, 7, "{}{}", ran.out, ran.err);
        assert!(ran.out.contains("policy_denied") || ran.err.contains("policy_denied"), "{}{}", ran.out, ran.err);
    }
    let nobody = neighbour.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_files_are_one_transfer_and_what_failed_is_retried() {
    let shop = shop().await;
    for number in 0..40 {
        shop.bucket.put(&format!("out/{number:02}"), format!("content {number}").into_bytes());
    }
    let _service = serve(&shop, &[]);
    let server = partner(&shop).await;
    connect(&shop, &server, &[]);
    std::fs::write(server.file("/in/07"), "somebody else's").unwrap();
    let ran = shop.run(&["transfer", "submit", "orders:out/", "partner", "--wait"]);
    assert_eq!(ran.code, 6, "{}{}", ran.out, ran.err);
    let id = id_of(&ran);
    let shown = state(&shop, &id);
    assert_eq!((&shown["state"], &shown["files_done"], &shown["files_failed"]), (&"completed_with_errors".into(), &39.into(), &1.into()));
    std::fs::remove_file(server.file("/in/07")).unwrap();
    done(shop.run(&["transfer", "retry", &id]));
    done(shop.run(&["transfer", "watch", &id]));
    let there = files_below(&server.file("/in"));
    assert_eq!(there.len(), 40);
    assert_eq!(there[b"07".as_slice()], b"content 7");
    let executions = done(shop.run(&["workflow", "show", &id])).objects();
    assert_eq!(executions.iter().filter(|line| line["type"] == "execution").count(), 2, "a retry is another run");
}

// SEMANTICS S73: "A service that was killed goes on with its transfers when it is started again on the same data directory, and a second
// one on that directory is refused at once."
// Mutations: `serve` takes no lock; tasks that nobody had answered for are not begun again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_service_goes_on_and_a_second_one_is_refused() {
    let shop = shop().await;
    let content: Vec<u8> = (0..48u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    shop.bucket.put("out/big", content.clone());
    shop.server.set_bandwidth(Some(16 << 20));
    let mut service = serve(&shop, &[]);
    let server = partner(&shop).await;
    connect(&shop, &server, &[]);
    let second = shop.run(&["serve"]);
    assert_eq!(second.code, 5, "{}{}", second.out, second.err);
    assert!(second.err.contains(&service.child.id().to_string()), "it names the one that runs: {}", second.err);

    let id = id_of(&done(shop.run(&["transfer", "submit", "orders:out/big", "partner"])));
    wait_until("a part of it", || shop.server.bytes_served("out/big") > 12 << 20);
    signal(service.child.id(), "KILL");
    service.child.wait().unwrap();
    let away = shop.run(&["transfer", "show", &id]);
    assert!(away.code == 5 && away.err.contains("fileferry serve"), "{}", away.err);
    shop.server.set_bandwidth(None);

    let _again = serve(&shop, &[]);
    let watched = done(shop.run(&["transfer", "watch", &id]));
    assert_eq!(watched.objects().last().unwrap()["state"], "completed");
    assert_eq!(files_below(&server.file("/in"))[b"big".as_slice()], content);
    assert_eq!(done(shop.run(&["transfer", "receipt", &id])).out.lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_is_paused_resumed_and_cancelled() {
    let shop = shop().await;
    shop.bucket.put("out/big", vec![7; 32 << 20]);
    shop.server.set_bandwidth(Some(4 << 20));
    let _service = serve(&shop, &[]);
    let server = partner(&shop).await;
    connect(&shop, &server, &[]);
    let submit = || id_of(&done(shop.run(&["transfer", "submit", "orders:out/big", "partner"])));
    let id = submit();
    wait_until("a part of it", || shop.server.bytes_served("out/big") > 6 << 20);
    done(shop.run(&["transfer", "pause", &id]));
    assert_eq!(shop.run(&["transfer", "watch", &id]).code, 130);
    assert_eq!(state(&shop, &id)["state"], "paused");
    done(shop.run(&["transfer", "resume", &id]));
    wait_until("more of it", || shop.server.bytes_served("out/big") > 14 << 20);
    done(shop.run(&["transfer", "cancel", &id]));
    assert_eq!(shop.run(&["transfer", "watch", &id]).code, 130);
    assert_eq!(state(&shop, &id)["state"], "cancelled");
    assert!(files_below(&server.file("/in")).is_empty(), "nothing of it is left at the partner's");
    assert_eq!(shop.run(&["transfer", "resume", &id]).code, 1);
}

/// Mutation: `resume` takes whatever is unfinished: it sends what nobody has approved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_on_the_services_directory_leaves_its_transfers_to_it() {
    let shop = shop().await;
    shop.bucket.put("out/a", b"x".to_vec());
    let service = serve(&shop, &[]);
    let server = partner(&shop).await;
    connect(&shop, &server, &["--approval", "second-person"]);
    let id = id_of(&done(shop.run(&["transfer", "submit", "orders:out/a", "partner"])));
    drop(service);
    // As the state of whoever runs copies on the service's directory.
    std::fs::create_dir(shop.home.path("other")).unwrap();
    std::os::unix::fs::symlink(shop.home.state().join("service"), shop.home.path("other/fileferry")).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = shop.command(arguments);
        command.env("XDG_STATE_HOME", shop.home.path("other"));
        ended(shop.start(command))
    };
    for arguments in [&["resume"][..], &["resume", "--abandon", "--all"]] {
        let ran = done(run(arguments));
        assert!(ran.err.contains("nothing is unfinished"), "{arguments:?}: {}", ran.err);
    }
    for arguments in [&["resume", &id][..], &["resume", "--abandon", &id]] {
        let ran = run(arguments);
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert!(ran.err.contains(&format!("`fileferry transfer resume {id}`")), "{}", ran.err);
    }
    assert!(shop.server.request_count() == 0 && files_below(&server.file("/in")).is_empty(), "it was not begun");
    let _again = serve(&shop, &[]);
    assert_eq!(state(&shop, &id)["state"], "held", "it waits as before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_in_no_output_record_or_answer() {
    let shop = shop().await;
    shop.bucket.put("out/a", b"x".to_vec());
    let service = serve(&shop, &["-v"]);
    let server = partner(&shop).await;
    connect(&shop, &server, &[]);
    let id = id_of(&done(shop.run(&["transfer", "submit", "orders:out/a", "partner", "--wait"])));
    let mut outputs = String::new();
    for arguments in [
        &["secret", "list"][..],
        &["connector", "list"],
        &["connector", "show", "partner"],
        &["source", "show", "orders"],
        &["transfer", "show", &id],
        &["transfer", "receipt", &id],
        &["workflow", "show", &id, "--events"],
        &["secret", "rekey"],
    ] {
        let ran = done(shop.run(arguments));
        outputs.push_str(&(ran.out + &ran.err));
    }
    // A literal password is refused without being repeated, wherever it is written.
    let url = format!("sftp://u:{PASSWORD}@h/in/");
    for arguments in [&["connector", "add", "x", &url][..], &["connector", "add", "x", "sftp://u@h/in/", "--password-from", PASSWORD]] {
        let ran = shop.run(arguments);
        assert_eq!(ran.code, 1, "{}", ran.err);
        outputs.push_str(&(ran.out + &ran.err));
    }
    outputs.push_str(&service.said.lock().unwrap());
    assert!(!outputs.contains(PASSWORD), "{outputs}");
    let mut directories = vec![shop.home.path("state")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                directories.push(entry);
            } else if let Ok(bytes) = std::fs::read(&entry) {
                assert!(!bytes.windows(PASSWORD.len()).any(|w| w == PASSWORD.as_bytes()), "{}", entry.display());
            }
        }
    }
    // The new key opens what the old one had sealed, also after a new start.
    drop(service);
    let _again = serve(&shop, &[]);
    shop.bucket.put("out/b", b"y".to_vec());
    done(shop.run(&["transfer", "submit", "orders:out/b", "partner", "--wait"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_named_with_the_next_step() {
    let shop = shop().await;
    let nobody = shop.run(&["transfer", "list"]);
    assert!(nobody.code == 5 && nobody.err.contains("next: start it with `fileferry serve"), "{}", nobody.err);
    let _service = serve(&shop, &[]);
    for (arguments, words) in [
        (&["transfer", "submit", "orders:out/a", "partner"][..], "connector list"),
        (&["transfer", "submit", "orders", "partner"], "SOURCE:KEY"),
        (&["transfer", "show", "aeaqcaibaeaqcaib"], "transfer list"),
        (&["connector", "show", "nobody"], "connector list"),
        (&["connector", "add", "p", "sftp://u@h/in/", "--password-from", "local:none"], "secret set none"),
        (&["connector", "add", "p", "sftp://u@h/in/", "--approval", "change"], "auto or second-person"),
        (&["connector", "add", "p", "sftp://u@h/in/", "--window", "8-18"], "22:00-04:00"),
        (&["connector", "add", "Big", "sftp://u@h/in/"], "a-z"),
        (&["source", "add", "s", "sftp://u@h/in/"], "s3://BUCKET/"),
        (&["secret", "remove", "none"], "secret list"),
        (&["secret", "set", "empty"], "pipe it in"),
    ] {
        let ran = shop.run(arguments);
        assert_eq!(ran.code, 1, "{arguments:?}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains(words), "{arguments:?}: {}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_else_approves_and_a_stranger_is_nobody() {
    use std::os::unix::process::CommandExt as _;
    // Only root can call as somebody else.
    if !std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0) {
        return;
    }
    let shop = shop().await;
    shop.bucket.put("out/a", b"x".to_vec());
    let data = tempfile::Builder::new().prefix("ff-served").tempdir_in("/tmp").unwrap();
    let program = data.path().join("fileferry");
    std::fs::copy(env!("CARGO_BIN_EXE_fileferry"), &program).unwrap();
    std::fs::set_permissions(data.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let served = data.path().join("data");
    let service = serve(&shop, &["--data", text(&served), "--grant", "65534=operator"]);
    let with_data = |arguments: &[&str]| shop.run(&[arguments, &["--data", text(&served)]].concat());
    let server = SftpServer::builder().start().await.unwrap();
    std::fs::create_dir_all(server.file("/in")).unwrap();
    let url = format!("sftp://{}@{}/in/", server.user(), server.address());
    let (key, host_key, endpoint) = (text(server.client_key()).to_owned(), server.host_key_fingerprint(), shop.server.endpoint());
    done(with_data(&[
        "connector",
        "add",
        "partner",
        &url,
        "--identity",
        &key,
        "--host-key",
        &host_key,
        "--allow-private",
        "--approval",
        "second-person",
    ]));
    done(with_data(&["source", "add", "orders", "s3://b/", "--s3-endpoint", &endpoint]));
    let id = id_of(&done(with_data(&["transfer", "submit", "orders:out/a", "partner"])));
    assert_eq!(with_data(&["transfer", "approve", &id]).code, 7, "nobody approves what they have asked for");
    assert!(shop.server.request_count() == 0, "nothing begins before the approval");
    let as_user = |uid: u32, arguments: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command
            .env_clear()
            .env("HOME", "/nonexistent")
            .args(arguments)
            .args(["--data", text(&served), "--json"])
            .current_dir("/")
            .uid(uid)
            .gid(uid);
        ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    };
    let stranger = as_user(65533, &["transfer", "list"]);
    assert!(stranger.code == 7 && stranger.err.contains("--grant"), "{}", stranger.err);
    assert_eq!(as_user(65534, &["connector", "disable", "partner"]).code, 7);
    done(as_user(65534, &["transfer", "approve", &id]));
    done(with_data(&["transfer", "watch", &id]));
    drop(service);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_running_service_is_put_back_with_its_transfers_and_secrets() {
    let shop = shop().await;
    shop.bucket.put("out/a", b"x".to_vec());
    let service = serve(&shop, &[]);
    let server = partner(&shop).await;
    connect(&shop, &server, &[]);
    let id = id_of(&done(shop.run(&["transfer", "submit", "orders:out/a", "partner", "--wait"])));
    let file = shop.home.path("kept.db");
    done(shop.run(&["backup", text(&file)]));
    done(shop.run(&["connector", "disable", "partner"]));
    assert_eq!(shop.run(&["restore", text(&file), "--force"]).code, 5, "not under a running service");
    drop(service);
    assert_eq!(shop.run(&["restore", text(&file)]).code, 1, "not over what is there");
    let restored = done(shop.run(&["restore", text(&file), "--force"]));
    assert!(restored.objects()[0]["aside"].is_string(), "{}", restored.out);
    let _again = serve(&shop, &[]);
    assert_eq!(state(&shop, &id)["state"], "completed");
    shop.bucket.put("out/b", b"y".to_vec());
    done(shop.run(&["transfer", "submit", "orders:out/b", "partner", "--wait"]));
}
