//! moto's DynamoDB in a process of its own, and the few calls of its JSON protocol that the experiment needs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub const TABLE: &str = "fileferry";

/// A server with one empty table; it ends with this.
pub struct Dynamo {
    process: Child,
    port: u16,
    _home: tempfile::TempDir,
}

impl Drop for Dynamo {
    fn drop(&mut self) {
        // Its own process, by its number; it has gone by itself at worst.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn virtual_environment() -> PathBuf {
    match std::env::var_os("FILEFERRY_TEST_VENV") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/venv"),
    }
}

impl Dynamo {
    pub fn start() -> Self {
        let program = virtual_environment().join("bin/moto_server");
        assert!(program.exists(), "the Python package moto is not installed for tests: run `make setup`");
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("log");
        let output = std::fs::File::create(&log).unwrap();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", "0"]).current_dir(home.path()).stdin(Stdio::null());
        let process = command.stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
        let mut server = Self { process, port: 0, _home: home };
        let began = Instant::now();
        server.port = loop {
            let log = std::fs::read_to_string(&log).unwrap();
            let port = log.split("Running on http://127.0.0.1:").nth(1).and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
            match port.and_then(|port| port.parse().ok()) {
                Some(port) => break port,
                None if began.elapsed() > Duration::from_secs(60) => panic!("moto does not start: {log}"),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let table = json!({
            "TableName": TABLE, "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}, {"AttributeName": "sk", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        });
        server.call("CreateTable", &table).unwrap();
        server
    }

    /// The answer, or the name and text of the error.
    pub fn call(&self, action: &str, body: &Value) -> Result<Value, String> {
        let body = body.to_string();
        // moto believes any signature; its scope says which service is meant.
        let scope = "AKIATEST/20260101/us-east-1/dynamodb/aws4_request";
        let head = format!(
            "POST / HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nContent-Length: {}\r\nContent-Type: application/x-amz-json-1.0\r\n\
             X-Amz-Target: DynamoDB_20120810.{action}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0\r\n\r\n",
            self.port,
            body.len()
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let value: Value = serde_json::from_str(body).unwrap_or(Value::Null);
        if head.split(' ').nth(1) == Some("200") { Ok(value) } else { Err(body.to_owned()) }
    }

    /// The attributes of one item, with strings, numbers and sets as plain JSON; `Null` where there is none.
    pub fn get(&self, pk: &str, sk: &str) -> Value {
        let answer = self.call("GetItem", &json!({"TableName": TABLE, "ConsistentRead": true, "Key": key(pk, sk)})).unwrap();
        answer.get("Item").map_or(Value::Null, plain)
    }

    /// The items of one partition whose sort key begins so, in its order.
    pub fn query(&self, pk: &str, prefix: &str) -> Vec<Value> {
        let values = json!({":pk": {"S": pk}, ":sk": {"S": prefix}});
        let query = json!({
            "TableName": TABLE, "ConsistentRead": true, "KeyConditionExpression": "pk = :pk AND begins_with(sk, :sk)",
            "ExpressionAttributeValues": values,
        });
        self.call("Query", &query).unwrap()["Items"].as_array().unwrap().iter().map(plain).collect()
    }
}

pub fn key(pk: &str, sk: &str) -> Value {
    json!({"pk": {"S": pk}, "sk": {"S": sk}})
}

fn plain(item: &Value) -> Value {
    let attribute = |value: &Value| {
        let (kind, value) = value.as_object().unwrap().iter().next().unwrap();
        match kind.as_str() {
            "N" => json!(value.as_str().unwrap().parse::<i64>().unwrap()),
            "SS" => {
                let mut all: Vec<&str> = value.as_array().unwrap().iter().filter_map(Value::as_str).collect();
                all.sort_unstable();
                json!(all)
            }
            _ => value.clone(),
        }
    };
    item.as_object().unwrap().iter().map(|(name, value)| (name.clone(), attribute(value))).collect::<serde_json::Map<_, _>>().into()
}
