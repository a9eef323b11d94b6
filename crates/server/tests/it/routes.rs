//! The whole way of an administrator and an operator, and every refusal as a problem.

use api::ClientError;
use api::client::Steer;
use api::connectors::PutConnector;
use api::sources::PutSource;
use api::transfers::{SubmitTransfer, TransferOptions};
use model::{Name, TransferId, TransferState};
use serde_json::json;

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn problem(error: ClientError) -> api::Problem {
    match error {
        ClientError::Refused(problem) => *problem,
        other => panic!("{other}"),
    }
}

async fn set_up(client: &Client) {
    client.put_secret(&name("partner"), "hunter2").await.unwrap();
    let settings = json!({"url": "sftp://u@127.0.0.1:1/in/", "server": {"password_from": "local:partner"}});
    client.put_connector(&name("partner"), &PutConnector { settings, version: Some(0) }).await.unwrap();
    client.put_source(&name("orders"), &PutSource { settings: json!({"bucket": "b"}), version: Some(0) }).await.unwrap();
}

fn submission(key: &str) -> SubmitTransfer {
    SubmitTransfer {
        source: name("orders"),
        source_key: Some(key.to_owned()),
        source_keys: None,
        source_prefix: None,
        connector: name("partner"),
        destination_path: None,
        priority: Some(3),
        options: TransferOptions::default(),
    }
}

// Mutation: a replay is not told from a submission (`submit`).
#[tokio::test]
async fn a_transfer_is_submitted_shown_steered_and_ended() {
    let service = service().await;
    let client = &service.client;
    set_up(client).await;
    let health = client.health().await.unwrap();
    assert_eq!((health.status.as_str(), health.role.as_str(), health.pid), ("ok", "admin", std::process::id()));

    let submitted = client.submit(&submission("a"), Some("k")).await.unwrap();
    assert!(!submitted.replayed);
    let id = submitted.transfer.transfer_id.clone();
    assert_eq!((submitted.transfer.state, submitted.transfer.priority), (TransferState::Pending, 3));
    assert!(submitted.transfer.user_ticket.is_some() && submitted.transfer.user_ticket != submitted.transfer.audit_ticket);
    assert!(client.submit(&submission("a"), Some("k")).await.unwrap().replayed);
    assert_eq!(problem(client.submit(&submission("b"), Some("k")).await.unwrap_err()).status, 409);

    assert_eq!(client.transfers(10, None).await.unwrap().transfers, [client.transfer(&id).await.unwrap()]);
    assert_eq!(client.steer(&id, Steer::Pause).await.unwrap().state, TransferState::Paused);
    assert_eq!(client.steer(&id, Steer::Resume).await.unwrap().state, TransferState::Pending);
    assert_eq!(client.steer(&id, Steer::Cancel).await.unwrap().state, TransferState::Cancelled);
    let refused = problem(client.steer(&id, Steer::Retry).await.unwrap_err());
    assert_eq!((refused.status, refused.code.as_str()), (409, "conflict"));
    let mut lines = client.watch(&id).await.unwrap();
    let line = lines.next().await.unwrap().unwrap();
    assert!(line.contains(r#""type":"transfer""#) && line.contains("cancelled"), "{line}");
    assert_eq!(lines.next().await.unwrap(), None, "it ends with the transfer");
    assert!(client.history(&id).await.unwrap().executions.is_empty());
    assert_eq!(client.receipts(&id).await.unwrap().next().await.unwrap(), None);

    let unknown = problem(client.transfer(&TransferId::from_random([9; 10])).await.unwrap_err());
    assert_eq!((unknown.status, unknown.code.as_str()), (404, "unknown"));
    service.stop.cancel();
    service.served.await.unwrap();
}

// Mutation: a full page names none after it (`list`).
#[tokio::test]
async fn pages_of_transfers_meet_without_a_gap() {
    let service = service().await;
    let client = &service.client;
    set_up(client).await;
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.insert(0, client.submit(&submission(&format!("k{number}")), None).await.unwrap().transfer.transfer_id);
    }
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = client.transfers(2, before.as_ref()).await.unwrap();
        seen.extend(page.transfers.into_iter().map(|transfer| transfer.transfer_id));
        let Some(next) = page.next else { break };
        before = Some(next);
    }
    assert_eq!(seen, ids);
}

// Mutation: what is in use is removed, or what nobody has seen is replaced.
#[tokio::test]
async fn settings_are_versioned_and_what_is_in_use_stays() {
    let service = service().await;
    let client = &service.client;
    set_up(client).await;
    let put = |version| PutConnector { settings: json!({"url": "sftp://u@h/in/"}), version };
    let taken = problem(client.put_connector(&name("partner"), &put(Some(0))).await.unwrap_err());
    assert_eq!((taken.status, taken.code.as_str()), (409, "conflict"));
    let used = problem(client.remove_secret(&name("partner")).await.unwrap_err());
    assert!(used.status == 409 && used.detail.contains("connector partner"), "{used:?}");
    client.submit(&submission("a"), None).await.unwrap();
    assert_eq!(problem(client.remove_connector(&name("partner")).await.unwrap_err()).status, 409);
    assert_eq!(problem(client.remove_source(&name("orders")).await.unwrap_err()).status, 409);

    let trusted = client.trust(&name("partner"), "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU").await.unwrap();
    assert_eq!((trusted.version, trusted.settings["server"]["host_keys"].as_array().unwrap().len()), (2, 1));
    assert_eq!(client.set_enabled(&name("partner"), false).await.unwrap().settings["enabled"], false);
    assert_eq!(problem(client.submit(&submission("b"), None).await.unwrap_err()).status, 409);
    let gone = problem(client.connector(&name("nobody")).await.unwrap_err());
    assert!(gone.status == 404 && gone.next.contains("connector list"), "{gone:?}");
}

// SEMANTICS S72: "What was given to `secret set` is in no answer, listing, log or error of the service, and in its data directory only sealed."
// Mutation: what serde says of a wrong value is passed on (`without_value`).
#[tokio::test]
async fn a_secret_comes_out_of_no_route() {
    let service = service().await;
    let client = &service.client;
    set_up(client).await;
    assert_eq!(client.rekey().await.unwrap().secrets, 1);
    client.submit(&submission("a"), None).await.unwrap();
    for path in ["/api/secrets", "/api/secrets/partner", "/api/connectors", "/api/connectors/partner", "/api/transfer", "/api/health"] {
        let (_, body) = service.ask("GET", path, "", "").await;
        assert!(!body.contains("hunter2"), "{path}: {body}");
    }
    let (status, body) = service.ask("PUT", "/api/secrets/other", JSON, r#"{"value": "hunter2", "oops": 1}"#).await;
    assert!(status == 422 && !body.contains("hunter2"), "{body}");
    for body in [r#"{"value": ["hunter2"]}"#, r#""hunter2""#, r#"{"value": {"hunter2": 1}}"#, r#"{"value": "hunter2""#] {
        let (status, answer) = service.ask("PUT", "/api/secrets/other", JSON, body).await;
        assert!(status == 422 && !answer.contains("hunter2"), "{body}: {answer}");
    }
}

// Mutations: the route of the whole audit asks for no right; that of one transfer does not look whose it is.
#[tokio::test]
async fn the_audit_is_for_whoever_sees_what_it_is_about() {
    let service = service().await;
    let client = &service.client;
    set_up(client).await;
    let id = client.submit(&submission("a"), None).await.unwrap().transfer.transfer_id;
    client.steer(&id, Steer::Cancel).await.unwrap();
    let mut lines = client.audit_of(&id).await.unwrap();
    let mut events = Vec::new();
    while let Some(line) = lines.next().await.unwrap() {
        let entry: model::audit::Entry = serde_json::from_str(&line).unwrap();
        assert_eq!(entry.by, client.transfer(&id).await.unwrap().user);
        events.push(entry.event);
    }
    assert_eq!(events, ["requested", "state", "ticket", "ticket"]);
    let mut lines = client.audit().await.unwrap();
    let mut all = Vec::new();
    while let Some(line) = lines.next().await.unwrap() {
        all.push(line);
    }
    assert!(all.iter().any(|line| line.contains("secret_saved")) && all.iter().all(|line| !line.contains("hunter2")), "{all:?}");
    let unknown = problem(client.audit_of(&TransferId::from_random([9; 10])).await.map(drop).unwrap_err());
    assert_eq!((unknown.status, unknown.code.as_str()), (404, "unknown"));

    use app::policy::{Principal, Role};
    let store = Store::open_in_memory().await.unwrap();
    for (role, sees) in [(Role::Viewer, false), (Role::Operator, false), (Role::Auditor, true), (Role::Admin, true)] {
        let who = Principal { user: "mia".to_owned(), role };
        assert_eq!(app::audit::entries(&store, &who, Default::default(), 1).await.is_ok(), sees, "{role}");
        assert_eq!(app::audit::seals(&store, &who, 0, 1).await.is_ok(), sees, "{role}");
        let id = TransferId::from_random([9; 10]);
        assert!(app::audit::may_read(&store, &who, &id, Timestamp::now()).await.is_err(), "an unknown transfer, {role}");
    }
}
