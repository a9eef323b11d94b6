//! The audit as an auditor meets it: who did what, whether that is as it was written, and what a copy elsewhere tells.

use std::path::Path;

use serde_json::Value;

use super::service::{Served, connect, done, id_of, partner, serving, state};
use super::shop::{Shop, shop, signal, wait_until};
use super::*;

const PASSWORD: &str = "hunter2-not-to-be-seen";

fn serve(shop: &Shop, copy: &Path) -> Served {
    serving(shop.command(&["serve", "-v", "--audit-seals", text(copy)]), |_| {})
}

/// A graceful end seals what is there.
fn stop(mut service: Served) {
    signal(service.child.id(), "TERM");
    assert!(service.child.wait().unwrap().success(), "{}", service.said());
}

async fn delivered(shop: &Shop, key: &str) -> String {
    shop.bucket.put(&format!("out/{key}"), b"one,two\n".to_vec());
    let id = id_of(&done(shop.run(&["transfer", "submit", &format!("orders:out/{key}"), "partner"])));
    let watched = shop.run(&["transfer", "watch", &id]);
    assert_eq!(state(shop, &id)["state"], "completed", "{}{}", watched.out, watched.err);
    id
}

fn events(ran: &Ran) -> Vec<String> {
    ran.objects().iter().map(|entry| entry["event"].as_str().unwrap().to_owned()).collect()
}

/// Ends with this code, and finds these problems.
fn verify(shop: &Shop, arguments: &[&str], code: u8) -> Vec<Value> {
    let ran = shop.run(&[&["audit", "verify"], arguments].concat());
    assert_eq!(ran.code, i32::from(code), "{}{}", ran.out, ran.err);
    ran.objects().into_iter().filter(|line| line["type"] == "audit_problem").collect()
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

// SEMANTICS S82: "Whoever edits, removes, inserts or reorders an entry of the audit, or cuts off a sealed end, is found by
// `audit verify`, at that entry."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_stands_in_the_audit_and_a_change_of_it_is_found() {
    let shop = shop().await;
    let copy = shop.home.path("elsewhere/seals.jsonl");
    let mut service = serve(&shop, &copy);
    let server = partner(&shop).await;
    connect(&shop, &server, &[]);
    let id = delivered(&shop, "a.csv").await;
    let shown = done(shop.run(&["audit", "show", &id]));
    let told = events(&shown);
    let at = |event: &str| told.iter().position(|told| told == event).unwrap_or_else(|| panic!("no {event} in {told:?}"));
    let order = [at("requested"), at("state"), at("session"), at("grant"), at("file"), told.len() - 1];
    assert!(told[0] == "requested" && order.is_sorted(), "{told:?}");
    let states: Vec<Value> =
        shown.objects().into_iter().filter(|entry| entry["event"] == "state").map(|entry| entry["detail"]["to"].clone()).collect();
    assert_eq!(states, ["in_progress", "completed"]);
    let me = done(shop.run(&["transfer", "show", &id])).objects()[0]["user"].clone();
    assert_eq!((&shown.objects()[0]["by"], &shown.objects()[2]["by"]), (&me, &Value::from("fileferry")));
    // The receipt that the partner was given is the one that is on record.
    let receipt = done(shop.run(&["transfer", "receipt", &id])).out;
    let file = shown.objects().into_iter().find(|entry| entry["event"] == "file").unwrap();
    assert_eq!(file["detail"]["receipt_sha256"], model::audit::hash(receipt.trim_end()).as_str());

    // What a kill leaves unsealed is sealed by the next start.
    service.child.kill().unwrap();
    service.child.wait().unwrap();
    let service = serve(&shop, &copy);
    wait_until("the seal of the next start", || copy.exists());
    assert!(verify(&shop, &[], 0).is_empty());
    assert!(verify(&shop, &["--seals", text(&copy)], 0).is_empty());
    let export = done(shop.run(&["audit", "export"]));
    assert!(!export.out.contains(PASSWORD), "a secret is in the audit");
    let whole: Vec<String> = export.out.lines().map(str::to_owned).collect();
    assert!(whole.iter().any(|line| line.contains("connector_saved")) && whole[0].contains("audit-seal"));
    stop(service);

    // From here on without any service, as an auditor elsewhere.
    let file = shop.home.path("audit.jsonl");
    let put = |lines: &[String]| std::fs::write(&file, lines.join("\n") + "\n").unwrap();
    put(&whole);
    assert!(verify(&shop, &[text(&file)], 0).is_empty());
    verify(&shop, &[text(&file), "--key", "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"], 23);
    let chain = format!("transfer:{id}");
    let begin = format!("{{\"v\":1,\"type\":\"audit\",\"chain\":\"{chain}\"");
    let mine: Vec<usize> = (0..whole.len()).filter(|at| whole[*at].starts_with(&begin)).collect();
    let mut edited = whole.clone();
    edited[mine[1]] = edited[mine[1]].replacen("fileferry", "somebody", 1);
    put(&edited);
    assert_eq!(verify(&shop, &[text(&file)], 22)[0]["chain"], chain.as_str());
    let mut removed = whole.clone();
    removed.remove(mine[2]);
    put(&removed);
    let found = verify(&shop, &[text(&file)], 22);
    assert_eq!((&found[0]["chain"], &found[0]["seq"]), (&Value::from(chain.as_str()), &Value::from(4)));
    // Without the seals a cut end cannot be seen in the file; the copy tells.
    let cut: Vec<String> = whole
        .iter()
        .enumerate()
        .filter(|(at, line)| *at != mine[mine.len() - 1] && !line.contains("audit-seal\""))
        .map(|(_, line)| line.clone())
        .collect();
    put(&cut);
    let found = verify(&shop, &[text(&file), "--seals", text(&copy)], 22);
    assert!(found[0]["what"].as_str().unwrap().contains("the end is missing"), "{found:?}");
}

// SEMANTICS S83: "Who rewrites the records with all their hashes and seals is found by the copy of the seals that is kept elsewhere."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_were_put_back_are_told_by_the_copy() {
    let shop = shop().await;
    let copy = shop.home.path("elsewhere/seals.jsonl");
    let service = serve(&shop, &copy);
    let server = partner(&shop).await;
    connect(&shop, &server, &[]);
    let backup = shop.home.path("backup.db");
    done(shop.run(&["backup", text(&backup)]));
    let id = delivered(&shop, "later.csv").await;
    stop(service);
    let seals = lines(&copy).len();

    done(shop.run(&["restore", text(&backup), "--force"]));
    let service = serve(&shop, &copy);
    wait_until("the word about the copy", || service.said().contains("the copy of the seals does not go with these records"));
    delivered(&shop, "again.csv").await;
    stop(service);
    // Numbers go on after those of the copy; nothing that was there has changed.
    assert!(lines(&copy).len() > seals);
    let service = serve(&shop, &copy);
    let found = verify(&shop, &["--seals", text(&copy)], 22);
    let gone = format!("transfer:{id}");
    assert!(
        found.iter().any(|problem| problem["chain"] == gone.as_str() && problem["what"].as_str().unwrap().contains("missing")),
        "{found:?}"
    );
    assert!(found.iter().all(|problem| problem["chain"] != "seals"), "{found:?}");
    assert!(done(shop.run(&["audit", "export"])).out.contains("records_put_back"));
    stop(service);
}
