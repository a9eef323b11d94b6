//! From a batch to the items of one TransactWriteItems: what `docs/decisions/0010` describes, for the nouns that it tries.
//! A mutation whose way depends on what is there reads first and makes what it saw a condition; whoever is refused by
//! such a condition reads again.

use jiff::Timestamp;
use serde_json::{Value, json};
use store::{LONGEST_PAUSE, Mutation, OutboxKey};

use super::server::{Dynamo, TABLE, key};

/// What the store would refuse is refused before it is sent, where reading shows it.
pub struct Refused;

type Items = Result<Vec<Value>, Refused>;

pub fn nanos(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap()
}

fn text(value: &str) -> Value {
    json!({"S": value})
}

fn number(value: impl Into<i64>) -> Value {
    json!({"N": value.into().to_string()})
}

/// One item that is written with `update` if `condition` holds. Empty: no condition, or nothing to change.
fn item(pk: &str, sk: &str, update: &str, condition: &str, values: &[(&str, Value)]) -> Value {
    let mut body = json!({"TableName": TABLE, "Key": key(pk, sk)});
    let kind = if update.is_empty() { "ConditionCheck" } else { "Update" };
    if !update.is_empty() {
        body["UpdateExpression"] = json!(update);
    }
    if !condition.is_empty() {
        body["ConditionExpression"] = json!(condition);
    }
    if !values.is_empty() {
        body["ExpressionAttributeValues"] =
            values.iter().map(|(name, value)| (format!(":{name}"), value.clone())).collect::<serde_json::Map<_, _>>().into();
    }
    json!({kind: body})
}

fn put(pk: &str, sk: &str, condition: &str, attributes: &[(&str, Value)]) -> Value {
    let mut whole = key(pk, sk);
    for (name, value) in attributes {
        whole[*name] = value.clone();
    }
    let mut body = json!({"TableName": TABLE, "Item": whole});
    if !condition.is_empty() {
        body["ConditionExpression"] = json!(condition);
    }
    json!({"Put": body})
}

fn delete(pk: &str, sk: &str) -> Value {
    json!({"Delete": {"TableName": TABLE, "Key": key(pk, sk)}})
}

const NEW: &str = "attribute_not_exists(pk)";

pub fn message(key: &OutboxKey) -> String {
    format!("outbox#{}#{}#{}#{}", key.transfer, key.run, key.step, key.purpose)
}

/// The messages of one target and subject have places 0, 1, 2 and so on; `head` is the place of the first that is not done.
fn line(target: &str, subject: &str) -> String {
    format!("line#{target}#{subject}")
}

pub fn events(n: u64) -> String {
    format!("event#{n:08}")
}

pub fn frames(n: u64) -> String {
    format!("frame#{n:08}")
}

/// `done` by `at` with the place of the line moved on: sent and unconfirmed ones hold nobody back.
fn done(db: &Dynamo, key: &OutboxKey, state: &str, condition: &str, values: &[(&str, Value)]) -> Items {
    let present = db.get(&message(key), "-");
    let (Some(place), Some(of)) = (present["place"].as_i64(), present["line"].as_str()) else { return Err(Refused) };
    let mut all = vec![("state", text(state))];
    all.extend_from_slice(values);
    let own = item(&message(key), "-", "SET #state = :state", condition, &all);
    let step = [("next", number(place + 1)), ("place", number(place))];
    Ok(vec![named(own, &[("#state", "state")]), item(of, "-", "SET head = :next", "head = :place", &step)])
}

/// `state` is a word of DynamoDB's own.
fn named(mut item: Value, names: &[(&str, &str)]) -> Value {
    let body = item.as_object_mut().unwrap().values_mut().next().unwrap();
    body["ExpressionAttributeNames"] =
        names.iter().map(|(short, name)| ((*short).to_owned(), json!(name))).collect::<serde_json::Map<_, _>>().into();
    item
}

pub fn items(db: &Dynamo, mutation: &Mutation) -> Items {
    Ok(match mutation {
        Mutation::CreateSession(s) => {
            let attributes =
                [("spec", text(&s.spec_hash)), ("created_at", number(nanos(s.created_at))), ("expires_at", number(nanos(s.expires_at)))];
            vec![put(&format!("session#{}", s.token_hash), "-", NEW, &attributes)]
        }
        Mutation::ConsumeSession { token_hash, execution, spec_hash, now } => {
            let condition =
                "created_at <= :now AND expires_at > :now AND spec = :spec AND (attribute_not_exists(consumed_by) OR consumed_by = :by)";
            let values = [("now", number(nanos(*now))), ("spec", text(spec_hash)), ("by", text(execution))];
            vec![item(&format!("session#{token_hash}"), "-", "SET consumed_by = :by", condition, &values)]
        }
        Mutation::DeleteSession { token_hash } => vec![delete(&format!("session#{token_hash}"), "-")],

        Mutation::PutGrant(g) => {
            let values = [("by", text(&g.user)), ("spec", text(&g.spec_hash)), ("part", text(&g.role)), ("e", text(&g.execution))];
            let update = "SET granted = if_not_exists(granted, :by), spec = if_not_exists(spec, :spec), part = if_not_exists(part, :part), execution = if_not_exists(execution, :e)";
            let condition = "attribute_not_exists(pk) OR (granted = :by AND spec = :spec AND part = :part)";
            vec![item(&format!("grant#{}", g.transfer), "-", update, condition, &values)]
        }
        Mutation::EndGrant { transfer } => vec![delete(&format!("grant#{transfer}"), "-")],

        // A set and its size are the counter; the item of a connector that is full is the one place everybody meets.
        Mutation::TakeSlot { connector, holder, limit, .. } => {
            let values = [("one", json!({"SS": [holder.as_str()]})), ("holder", text(holder.as_str())), ("limit", number(*limit))];
            let condition = "attribute_not_exists(holders) OR contains(holders, :holder) OR size(holders) < :limit";
            vec![item(&format!("slots#{connector}"), "-", "ADD holders :one", condition, &values)]
        }
        Mutation::ReleaseSlot { connector, holder } => {
            vec![item(&format!("slots#{connector}"), "-", "DELETE holders :one", "", &[("one", json!({"SS": [holder.as_str()]}))])]
        }

        Mutation::AddOutbox(m) => {
            if !db.get(&message(&m.key), "-").is_null() {
                return Ok(Vec::new());
            }
            let line = line(&m.target, &m.subject);
            let place = db.get(&line, "-")["tail"].as_i64().unwrap_or(0);
            let attributes = [
                ("state", text("waiting")),
                ("attempts", number(0)),
                ("next_at", number(nanos(m.at))),
                ("line", text(&line)),
                ("place", number(place)),
            ];
            let values = [("next", number(place + 1)), ("place", number(place)), ("zero", number(0))];
            let update = "SET tail = :next, head = if_not_exists(head, :zero)";
            let line = item(&line, "-", update, "attribute_not_exists(tail) OR tail = :place", &values);
            vec![put(&message(&m.key), "-", NEW, &attributes), line]
        }
        Mutation::ClaimOutbox { key, now, until, .. } => {
            let present = db.get(&message(key), "-");
            let (Some(place), Some(of)) = (present["place"].as_i64(), present["line"].as_str()) else { return Err(Refused) };
            let values = [
                ("claimed", text("claimed")),
                ("waiting", text("waiting")),
                ("now", number(nanos(*now))),
                ("far", number(nanos(*now + LONGEST_PAUSE))),
                ("until", number(nanos(*until))),
                ("one", number(1)),
            ];
            let update = "SET #state = :claimed, claimed_until = :until ADD attempts :one";
            let own = item(&message(key), "-", update, "#state = :waiting AND (next_at <= :now OR next_at > :far)", &values);
            vec![named(own, &[("#state", "state")]), item(of, "-", "", "head = :place", &[("place", number(place))])]
        }
        Mutation::MarkSent { key, .. } => match db.get(&message(key), "-")["state"].as_str() {
            Some("sent") => Vec::new(),
            _ => done(db, key, "sent", "attempts > :zero", &[("zero", number(0))])?,
        },
        Mutation::MarkFailed { key, attempt, how, .. } => {
            let held = [("claimed", text("claimed")), ("attempt", number(*attempt))];
            let condition = "#state = :claimed AND attempts = :attempt";
            let stay = |state: &str, next: &str, more: &[(&str, Value)]| {
                let values: Vec<_> = held.iter().chain(more).cloned().chain([("state", text(state))]).collect();
                vec![named(item(&message(key), "-", &format!("SET #state = :state{next}"), condition, &values), &[("#state", "state")])]
            };
            match how {
                store::SendFailure::Again { next_at } => stay("waiting", ", next_at = :next", &[("next", number(nanos(*next_at)))]),
                store::SendFailure::Refused => stay("refused", "", &[]),
                store::SendFailure::Unconfirmed => done(db, key, "unconfirmed", condition, &held)?,
            }
        }

        Mutation::CreateExecution(new) => {
            let pk = format!("execution#{}", new.record.name);
            let attributes = [("status", text(new.record.status.as_str())), ("last_event", number(new.record.last_event as i64))];
            let definition = put(&format!("definition#{}", new.record.definition), "-", "", &[("body", text(&new.definition_text))]);
            let mut items = vec![put(&pk, "head", NEW, &attributes), definition];
            items.extend(new.frames.iter().map(|frame| put(&pk, &frames(frame.id), "", &[("body", text(&frame.body))])));
            items.extend(new.history.iter().map(|event| put(&pk, &events(event.id), "", &[("body", text(&event.body))])));
            items
        }
        Mutation::SaveStep(step) => {
            let pk = format!("execution#{}", step.name);
            let values = [
                ("status", text(step.status.as_str())),
                ("last", number(step.last_event as i64)),
                ("expect", number(step.expect_event as i64)),
            ];
            let head = item(&pk, "head", "SET #status = :status, last_event = :last", "last_event = :expect", &values);
            let mut items = vec![named(head, &[("#status", "status")])];
            items.extend(step.frames.iter().map(|frame| put(&pk, &frames(frame.id), "", &[("body", text(&frame.body))])));
            items.extend(step.removed.iter().map(|id| delete(&pk, &frames(*id))));
            items.extend(step.history.iter().map(|event| put(&pk, &events(event.id), "", &[("body", text(&event.body))])));
            items
        }

        Mutation::PutIdempotency(record) => {
            let pk = format!("key#{}", record.key);
            let present = db.get(&pk, "-");
            let live = present["expires_at"].as_i64().is_some_and(|time| time > nanos(record.created_at));
            let same = present["hash"] == record.request_hash.as_str() && present["transfer"] == record.transfer.as_str();
            match (live, same) {
                (true, false) => return Err(Refused),
                (true, true) => {
                    let seen = [("seen", number(present["expires_at"].as_i64().unwrap()))];
                    vec![item(&pk, "-", "", "expires_at = :seen", &seen)]
                }
                (false, _) => {
                    let attributes = [
                        ("hash", text(&record.request_hash)),
                        ("transfer", text(record.transfer.as_str())),
                        ("expires_at", number(nanos(record.expires_at))),
                    ];
                    let mut whole = put(&pk, "-", "attribute_not_exists(pk) OR expires_at <= :now", &attributes);
                    whole["Put"]["ExpressionAttributeValues"] = json!({":now": number(nanos(record.created_at))});
                    vec![whole]
                }
            }
        }
        other => panic!("the experiment does not try {other:?}"),
    })
}
