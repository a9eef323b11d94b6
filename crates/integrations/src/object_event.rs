//! Reads what a store says of a new object: S3's notification, the same in an envelope of SNS, or the form of EventBridge.
//! Whoever may write to the queue may write anything here, so everything is bounded and a name is only a name.

use std::collections::BTreeSet;

use jiff::Timestamp;
use model::ObjectKey;
use serde_json::Value;

/// SQS takes messages of 1 MiB at most.
pub const LONGEST_MESSAGE: usize = 1024 * 1024;
/// S3 puts one record in a message and says that there may be more; nothing known puts in this many.
const MOST_RECORDS: usize = 1_000;
/// A version id of S3 has 32 characters, and at most 1,024 bytes.
const LONGEST_NAME: usize = 1_024;

/// An object, or a version of one, that was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Written {
    pub bucket: String,
    pub key: ObjectKey,
    pub version: Option<String>,
    /// As the notification gives it: without quotes.
    pub etag: Option<String>,
    pub at: Option<Timestamp>,
}

/// What one message says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notice {
    /// Of all its events, also of those that write nothing.
    pub buckets: BTreeSet<String>,
    pub written: Vec<Written>,
    /// Events of another kind: removed, tagged, restored.
    pub others: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotUnderstood {
    #[error("it has {0} bytes; at most {LONGEST_MESSAGE} are read")]
    TooLong(usize),
    #[error("it is not JSON")]
    NotJson,
    #[error("it is no notification of an S3 bucket")]
    AnotherKind,
    #[error("it has {0} records; at most {MOST_RECORDS} are read")]
    TooMany(usize),
    #[error("its record {0} names no bucket or no key that can be")]
    NoObject(usize),
}

/// Reads a message. All of its records or none: half a message could be deleted with the other half unread.
pub fn read(body: &str) -> Result<Notice, NotUnderstood> {
    let message = parse(body)?;
    match enclosed(&message) {
        Some(text) => notice(&parse(text)?),
        None => notice(&message),
    }
}

fn parse(text: &str) -> Result<Value, NotUnderstood> {
    if text.len() > LONGEST_MESSAGE {
        return Err(NotUnderstood::TooLong(text.len()));
    }
    serde_json::from_str(text).map_err(|_| NotUnderstood::NotJson)
}

/// What SNS was given to send on, unless the subscription delivers it raw.
fn enclosed(message: &Value) -> Option<&str> {
    message.get("Type").filter(|kind| *kind == "Notification")?;
    message.get("TopicArn")?;
    message.get("Message")?.as_str()
}

fn notice(message: &Value) -> Result<Notice, NotUnderstood> {
    if message.get("Event").is_some_and(|event| event == "s3:TestEvent") {
        let bucket = named(message.get("Bucket").and_then(Value::as_str)).ok_or(NotUnderstood::NoObject(0))?;
        return Ok(Notice { buckets: BTreeSet::from([bucket]), ..Notice::default() });
    }
    if message.get("source").is_some_and(|source| source == "aws.s3") {
        return of_event_bridge(message);
    }
    let records = message.get("Records").and_then(Value::as_array).ok_or(NotUnderstood::AnotherKind)?;
    if records.len() > MOST_RECORDS {
        return Err(NotUnderstood::TooMany(records.len()));
    }
    let mut notice = Notice::default();
    for (index, record) in records.iter().enumerate() {
        let text = |name: &str| record.get(name).and_then(Value::as_str);
        // Stores that are not AWS have a word of their own before the colon.
        if !text("eventSource").is_some_and(|source| source.ends_with(":s3")) {
            return Err(NotUnderstood::AnotherKind);
        }
        let name = text("eventName").ok_or(NotUnderstood::AnotherKind)?;
        let part = |path: &str| record.pointer(path).and_then(Value::as_str);
        let bucket = named(part("/s3/bucket/name")).ok_or(NotUnderstood::NoObject(index))?;
        notice.buckets.insert(bucket.clone());
        if !name.strip_prefix("s3:").unwrap_or(name).starts_with("ObjectCreated:") {
            notice.others += 1;
            continue;
        }
        let written = written(
            bucket,
            part("/s3/object/key").and_then(decoded),
            part("/s3/object/versionId"),
            part("/s3/object/eTag"),
            text("eventTime"),
        );
        notice.written.push(written.ok_or(NotUnderstood::NoObject(index))?);
    }
    Ok(notice)
}

fn of_event_bridge(message: &Value) -> Result<Notice, NotUnderstood> {
    let kind = message.get("detail-type").and_then(Value::as_str).ok_or(NotUnderstood::AnotherKind)?;
    let part = |path: &str| message.pointer(path).and_then(Value::as_str);
    let bucket = named(part("/detail/bucket/name")).ok_or(NotUnderstood::NoObject(0))?;
    let buckets = BTreeSet::from([bucket.clone()]);
    if kind != "Object Created" {
        return Ok(Notice { buckets, written: Vec::new(), others: 1 });
    }
    // Here the key stands as it is.
    let written = written(
        bucket,
        part("/detail/object/key").map(str::to_owned),
        part("/detail/object/version-id"),
        part("/detail/object/etag"),
        part("/time"),
    );
    Ok(Notice { buckets, written: vec![written.ok_or(NotUnderstood::NoObject(0))?], others: 0 })
}

fn named(text: Option<&str>) -> Option<String> {
    text.filter(|text| (1..=LONGEST_NAME).contains(&text.len())).map(str::to_owned)
}

fn written(bucket: String, key: Option<String>, version: Option<&str>, etag: Option<&str>, at: Option<&str>) -> Option<Written> {
    Some(Written {
        bucket,
        key: ObjectKey::new(key?).ok()?,
        // The version of what was written while versions were off or suspended is called null, and is the only one of its name.
        version: named(version).filter(|version| version != "null"),
        etag: named(etag),
        at: at.and_then(|text| text.parse().ok()),
    })
}

/// As in a form of a web page: a plus is a space, a percent sign begins a byte.
fn decoded(key: &str) -> Option<String> {
    let spaced = key.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8().ok().map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(event: &str, key: &str) -> Value {
        json!({
            "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-west-1", "eventTime": "2026-01-02T03:04:05.678Z",
            "eventName": event,
            "s3": {
                "s3SchemaVersion": "1.0", "configurationId": "x",
                "bucket": {"name": "b", "arn": "arn:aws:s3:::b"},
                "object": {"key": key, "size": 3, "eTag": "abc", "versionId": "v1", "sequencer": "0055AED6DCD90281E5"}
            }
        })
    }

    fn bucket(name: &str) -> BTreeSet<String> {
        BTreeSet::from([name.to_owned()])
    }

    fn only(name: &str) -> Notice {
        Notice { buckets: bucket(name), ..Notice::default() }
    }

    fn said(message: &Value) -> Result<Notice, NotUnderstood> {
        read(&message.to_string())
    }

    #[test]
    fn a_notification_is_read_and_its_key_decoded() {
        let notice = said(&json!({"Records": [record("ObjectCreated:Put", "p/a+b%2Bc%C3%A9%25.csv")]})).unwrap();
        let written = &notice.written[0];
        assert_eq!(written.key.as_str(), "p/a b+cé%.csv");
        assert_eq!((written.bucket.as_str(), written.version.as_deref(), written.etag.as_deref()), ("b", Some("v1"), Some("abc")));
        assert_eq!(written.at, Some("2026-01-02T03:04:05.678Z".parse().unwrap()));
    }

    #[test]
    fn an_envelope_of_sns_is_opened_once() {
        let inner = json!({"Records": [record("ObjectCreated:CompleteMultipartUpload", "p/a")]});
        let wrap = |text: String| json!({"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:x:1:t", "Message": text});
        let once = wrap(inner.to_string());
        assert_eq!(said(&once), said(&inner));
        assert_eq!(said(&wrap(once.to_string())), Err(NotUnderstood::AnotherKind));
    }

    #[test]
    fn the_form_of_event_bridge_has_plain_keys() {
        let event = |kind: &str| {
            json!({"version": "0", "source": "aws.s3", "detail-type": kind, "time": "2026-01-02T03:04:05Z",
                "detail": {"bucket": {"name": "b"}, "object": {"key": "p/a+b %41", "size": 1, "etag": "e", "version-id": "v"}}})
        };
        let notice = said(&event("Object Created")).unwrap();
        assert_eq!((notice.written[0].key.as_str(), notice.written[0].version.as_deref()), ("p/a+b %41", Some("v")));
        assert_eq!(said(&event("Object Deleted")).unwrap(), Notice { buckets: bucket("b"), written: vec![], others: 1 });
    }

    #[test]
    fn other_events_are_counted_and_a_test_says_nothing() {
        let records = ["ObjectCreated:Copy", "ObjectRemoved:Delete", "s3:ObjectCreated:Put", "ObjectRestore:Completed"];
        let notice = said(&json!({"Records": records.map(|event| record(event, "p/a"))})).unwrap();
        assert_eq!((notice.written.len(), notice.others), (2, 2));
        assert_eq!(said(&json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"})).unwrap(), only("b"));
    }

    #[test]
    fn the_bucket_of_every_kind_of_event_is_read() {
        let mut removed = record("ObjectRemoved:Delete", "p/a");
        removed["s3"]["bucket"]["name"] = json!("theirs");
        let both = said(&json!({"Records": [record("ObjectCreated:Put", "p/a"), removed]})).unwrap();
        assert_eq!(both.buckets, BTreeSet::from(["b".to_owned(), "theirs".to_owned()]));
        assert_eq!(said(&json!({"Event": "s3:TestEvent", "Bucket": "theirs"})).unwrap(), only("theirs"));
        removed["s3"]["bucket"] = Value::Null;
        for nameless in [
            json!({"Records": [removed]}),
            json!({"Event": "s3:TestEvent"}),
            json!({"source": "aws.s3", "detail-type": "AWS API Call via CloudTrail", "detail": {}}),
        ] {
            assert_eq!(said(&nameless), Err(NotUnderstood::NoObject(0)), "{nameless}");
        }
    }

    #[test]
    fn what_is_no_notification_is_refused_whole_and_bounded() {
        assert_eq!(read("hello"), Err(NotUnderstood::NotJson));
        assert_eq!(read(&"[".repeat(100_000)), Err(NotUnderstood::NotJson));
        assert_eq!(read(&" ".repeat(LONGEST_MESSAGE + 1)), Err(NotUnderstood::TooLong(LONGEST_MESSAGE + 1)));
        for other in [json!({}), json!([]), json!(7), json!({"Records": {}}), json!({"Records": [1]}), json!({"Type": "Notification"})] {
            assert_eq!(said(&other), Err(NotUnderstood::AnotherKind), "{other}");
        }
        let good = record("ObjectCreated:Put", "p/a");
        for key in ["", "%FF", &"x".repeat(1025)] {
            let bad = json!({"Records": [good, record("ObjectCreated:Put", key)]});
            assert_eq!(said(&bad), Err(NotUnderstood::NoObject(1)), "{key}");
        }
        let many = json!({"Records": vec![good.clone(); MOST_RECORDS + 1]});
        assert_eq!(said(&many), Err(NotUnderstood::TooMany(MOST_RECORDS + 1)));
        let mut unversioned = good;
        unversioned["s3"]["object"]["versionId"] = Value::Null;
        assert_eq!(said(&json!({"Records": [unversioned.clone()]})).unwrap().written[0].version, None);
        unversioned["s3"]["object"]["versionId"] = json!("null");
        assert_eq!(said(&json!({"Records": [unversioned]})).unwrap().written[0].version, None);
    }
}
