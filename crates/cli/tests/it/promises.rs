//! Promises of docs/SEMANTICS.md that a person meets at the command line, from one directory of this machine to another.

use std::io::{BufRead as _, BufReader};
use std::process::Child;

use testkit::sftp::SftpServer;

use super::*;

struct Copy {
    home: Home,
    source: String,
    destination: String,
}

impl Copy {
    /// `out/` with these files, and an empty `in/`.
    fn of(files: &[(&str, &[u8])]) -> Self {
        let home = Home::new();
        for (name, bytes) in files {
            let path = home.path("out").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        std::fs::create_dir(home.path("in")).unwrap();
        let url = |name: &str| format!("file://{}/", text(&home.path(name)));
        Self { source: url("out"), destination: url("in"), home }
    }

    fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["copy", &self.source, &self.destination, "--json"], more].concat()
    }

    fn run(&self, more: &[&str]) -> Ran {
        self.home.run(&self.arguments(more))
    }

    /// Starts a copy and returns once bytes are flowing.
    fn under_way(&self, more: &[&str]) -> Child {
        let mut child = self.home.command(&self.arguments(more)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok).map(|line| serde_json::from_str::<serde_json::Value>(&line).unwrap());
        lines.find(|o| o["type"] == "progress" && o["bytes_sent"].as_u64() > Some(0)).expect("it ended before anything flowed");
        child
    }

    fn delivered(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.home.path("in").join(name)).ok()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(self.home.path("in")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn summary(ran: &Ran) -> serde_json::Value {
    ran.objects().into_iter().find(|o| o["type"] == "summary").unwrap_or_else(|| panic!("{}{}", ran.out, ran.err))
}

/// More than one range, at a rate that leaves time to interfere.
const LARGE: usize = 12 << 20;
const SLOWLY: &[&str] = &["--bwlimit", "10M"];

fn large() -> Vec<u8> {
    (0..LARGE as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

// SEMANTICS S10: "Every delivered file has a receipt with the CRC-64/NVME of the whole file, its SHA-256 unless you choose
// other digests, and what was compared to prove it."
#[test]
fn a_receipt_says_what_was_delivered_and_how_it_was_proved() {
    let copy = Copy::of(&[("a.csv", b"123456789"), ("empty", b"")]);
    let receipts = copy.home.path("receipts.jsonl");
    let ran = copy.run(&["--receipt", text(&receipts)]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let file = ran.objects().into_iter().find(|o| o["type"] == "file" && o["size"] == 9).unwrap();
    assert_eq!(file["crc64nvme"], "ae8b14860a799888");
    assert_eq!(file["sha256"], "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225");
    assert_eq!(file["verification"]["grade"], "read-back");
    assert_eq!(file["verification"]["bytes_compared"], 9);
    assert!(file["signature"]["value"].is_string());
    let delivered = copy.home.path("in/a.csv");
    let verified = copy.home.run(&["receipt", "verify", text(&receipts), "--against", text(&delivered)]);
    assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
    assert!(verified.out.contains("2 intact and trusted"));
}

// SEMANTICS S17: "A second run of a finished copy sends nothing, lists its files as `unchanged` and exits 0; `--resend` sends
// them again."
#[test]
fn a_second_run_sends_nothing() {
    let copy = Copy::of(&[("a", b"one"), ("d/b", b"two")]);
    assert_eq!(copy.run(&[]).code, 0);
    let again = copy.run(&[]);
    let told = summary(&again);
    assert_eq!((again.code, told["unchanged"].as_u64(), told["bytes_sent"].as_u64()), (0, Some(2), Some(0)), "{told}");
    let resent = summary(&copy.run(&["--resend", "--if-exists", "replace"]));
    assert_eq!((resent["delivered"].as_u64(), resent["bytes_sent"].as_u64()), (Some(2), Some(6)), "{resent}");
}

// SEMANTICS S18: "A file that was delivered and has been taken away by the partner since is not sent again."
#[test]
fn a_collected_file_is_not_sent_again() {
    let copy = Copy::of(&[("a", b"one")]);
    assert_eq!(copy.run(&[]).code, 0);
    std::fs::remove_file(copy.home.path("in/a")).unwrap();
    let again = copy.run(&[]);
    assert_eq!((again.code, summary(&again)["unchanged"].as_u64()), (0, Some(1)));
    assert!(copy.names().is_empty());
}

// SEMANTICS S20: "A key that cannot be a name below the destination directory (`..`, an empty segment, a control character,
// more than 255 bytes) fails with `dest_name_invalid`; it is never bent into another name."
#[test]
fn names_that_lead_elsewhere_are_refused() {
    let copy = Copy::of(&[("a\nb", b"x"), ("good", b"y")]);
    let ran = copy.run(&[]);
    let told = summary(&ran);
    assert_eq!((ran.code, told["errors"]["dest_name_invalid"].as_u64()), (6, Some(1)), "{}", ran.err);
    assert_eq!(copy.names(), ["good"]);
    let outside = Copy::of(&[("good", b"y")]);
    assert_eq!(outside.run(&["--name", "../{base}"]).code, 28);
    assert_eq!(outside.run(&["--name", "x//{base}"]).code, 28);
    assert!(outside.names().is_empty() && !outside.home.path("good").exists());
}

// SEMANTICS S21: "Two keys that would get the same name stop the copy before anything is sent, and the message names both."
#[test]
fn two_keys_for_one_name_stop_the_copy() {
    let copy = Copy::of(&[("x/same", b"1"), ("y/same", b"2"), ("z", b"3")]);
    let ran = copy.run(&["--flatten"]);
    assert_eq!(ran.code, 27, "{}", ran.err);
    assert!(ran.err.contains("x/same") && ran.err.contains("y/same"), "{}", ran.err);
    assert!(copy.names().is_empty());
}

// SEMANTICS S23: "Besides the delivered files a finished copy leaves nothing at the destination but the directories they are
// in."
#[test]
fn nothing_else_is_left_at_the_destination() {
    let copy = Copy::of(&[("a", b"1"), ("d/b", b"2"), ("large", &large())]);
    assert_eq!(copy.run(&[]).code, 0);
    assert_eq!(copy.names(), ["a", "d", "large"]);
    assert_eq!(std::fs::read_dir(copy.home.path("in/d")).unwrap().count(), 1);
    assert_eq!(copy.delivered("large"), Some(large()));
}

// SEMANTICS S22: "Directories below the destination directory are created; the destination directory itself only with
// `--mkdir`, otherwise the copy exits 3."
#[test]
fn the_destination_directory_is_not_invented() {
    let copy = Copy::of(&[("d/b", b"2")]);
    std::fs::remove_dir(copy.home.path("in")).unwrap();
    assert_eq!(copy.run(&[]).code, 3);
    assert!(!copy.home.path("in").exists());
    let made = copy.run(&["--mkdir"]);
    assert_eq!(made.code, 0, "{}", made.err);
    assert_eq!(copy.delivered("d/b").as_deref(), Some(&b"2"[..]));
}

// SEMANTICS S27: "A file that fails does not stop the others; files end in no promised order."
#[test]
fn one_failure_does_not_stop_the_others() {
    let copy = Copy::of(&[("a", b"1"), ("b", b"2"), ("c", b"3")]);
    std::fs::write(copy.home.path("in/b"), "old").unwrap();
    let ran = copy.run(&[]);
    let told = summary(&ran);
    assert_eq!((ran.code, told["delivered"].as_u64(), told["errors"]["dest_exists"].as_u64()), (6, Some(2), Some(1)), "{told}");
    assert_eq!(copy.delivered("b").as_deref(), Some(&b"old"[..]));
}

// SEMANTICS S28: "Of two processes given the same source, destination and naming at the same time, the second exits 5 at once
// and names the process that runs the copy."
#[test]
fn the_same_copy_does_not_run_twice_at_once() {
    let copy = Copy::of(&[("large", &large())]);
    let mut first = copy.under_way(SLOWLY);
    let second = copy.run(SLOWLY);
    let still = first.try_wait().unwrap().is_none();
    assert!(still, "the first one had ended before the second one began");
    assert_eq!(second.code, 5, "{}", second.err);
    assert!(second.err.contains(&format!("process {}", first.id())), "{}", second.err);
    assert_eq!(first.wait().unwrap().code(), Some(0), "the first one goes on");
    assert_eq!(copy.delivered("large"), Some(large()));
}

// SEMANTICS S15: "The first Ctrl-C (SIGINT, SIGTERM or SIGHUP) stops the copy with exit code 130; ranges that the destination
// had confirmed are kept, and `resume` or the same command goes on from there."
#[test]
fn a_signal_stops_and_resume_goes_on() {
    for resumed_by in ["resume", "copy"] {
        let copy = Copy::of(&[("large", &large())]);
        let mut first = copy.under_way(SLOWLY);
        rustix::process::kill_process(rustix::process::Pid::from_child(&first), rustix::process::Signal::INT).unwrap();
        assert_eq!(first.wait().unwrap().code(), Some(130));
        assert!(copy.delivered("large").is_none());
        let ran = if resumed_by == "resume" { copy.home.run(&["resume", "--json"]) } else { copy.run(&[]) };
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        let told = summary(&ran);
        let (sent, kept) = (told["bytes_sent"].as_u64().unwrap(), told["bytes_resumed"].as_u64().unwrap());
        assert_eq!(sent + kept, LARGE as u64, "{told}");
        assert_eq!(copy.delivered("large"), Some(large()));
        assert_eq!(copy.names(), ["large"]);
    }
}

// SEMANTICS S16: "After a kill (SIGKILL) of the process the next run takes its temporary file over, sends what the last
// checkpoint does not have, and delivers the whole file."
#[test]
fn a_killed_copy_is_taken_over() {
    let copy = Copy::of(&[("large", &large()), ("small", b"1")]);
    let mut first = copy.under_way(SLOWLY);
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(copy.delivered("large").is_none());
    let ran = copy.run(&[]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert_eq!((copy.delivered("large"), copy.delivered("small")), (Some(large()), Some(b"1".to_vec())));
    assert_eq!(copy.names(), ["large", "small"], "the temporary files of the killed process are gone");
}

// SEMANTICS S32: "`--dry-run`, `ls`, `check` and `hash` change nothing, neither at the destination nor in the records."
#[test]
fn looking_changes_nothing() {
    let copy = Copy::of(&[("a", b"1")]);
    let plan = copy.run(&["--dry-run"]);
    assert_eq!(plan.code, 0, "{}", plan.err);
    let check = copy.home.run(&["check", &copy.source, &copy.destination, "--json"]);
    assert_eq!(check.code, 22, "{}{}", check.out, check.err);
    assert_eq!(copy.home.run(&["ls", &copy.destination]).code, 0);
    assert_eq!(copy.home.run(&["hash", &copy.source]).code, 0);
    assert!(copy.names().is_empty());
    assert!(copy.home.run(&["history"]).out.is_empty());
}

// SEMANTICS S26: "One login sends a password at most once, and after a refused login `copy` does not try the same credential
// at that account again until it changes or `--retry-auth` is given."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_login_is_not_tried_again() {
    let server = SftpServer::builder().in_memory().start().await.unwrap();
    let stranger = SftpServer::builder().in_memory().start().await.unwrap();
    let home = Home::new();
    let source = format!("file://{}", text(&home.write("a", "x")));
    let destination = format!("sftp://{}@{}/", server.user(), server.address());
    let host_key = server.host_key_fingerprint();
    let copy = |key: &Path, more: &[&str]| {
        let arguments = ["copy", &source, &destination, "--host-key", &host_key, "--identity", text(key)];
        home.run(&[&arguments, more].concat()).code
    };
    // Every login begins by asking which methods there are; a key that is not known is not even signed with.
    let tried = || server.recorder().attempts.none.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!((copy(stranger.client_key(), &[]), tried()), (24, 1));
    assert_eq!((copy(stranger.client_key(), &[]), tried()), (24, 1), "parked");
    assert_eq!((copy(stranger.client_key(), &["--retry-auth"]), tried()), (24, 2));
    assert_eq!(copy(server.client_key(), &[]), 0, "another credential is another matter");
}
