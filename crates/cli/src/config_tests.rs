//! What config.yaml may say, and how mistakes in it are named.

use super::*;

fn read_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    read(Path::new("fileferry.yaml"), text, &variable).map_err(|e| e.to_string())
}

fn mistake(text: &str) -> String {
    read_with(text, &[]).unwrap_err()
}

#[test]
fn unknown_keys_are_refused_with_file_line_and_suggestion() {
    assert_eq!(
        mistake("copy:\n  verify: auto\n  if_exist: skip\n"),
        "fileferry.yaml:3: \"if_exist\" is not a key of copy; did you mean \"if_exists\"?"
    );
    assert_eq!(mistake("copi:\n  verify: auto\n"), "fileferry.yaml:1: \"copi\" is not a block; did you mean \"copy\"?");
    assert!(mistake("sso:\n  acount_id: 1\n").contains("did you mean \"account_id\""));
    assert!(mistake("transfer:\n  max_threads: 1\n").starts_with("fileferry.yaml:2:"));
}

#[test]
fn the_blocks_of_the_documents_are_understood() {
    let text = "transfer:\n  small_file_threshold: 1048576\n  large_file_threshold: 2M\n  default_chunk_size: 10485760\n  \
                max_parallel_threads: 4\n  enable_compression: false\nservicenow:\n  instance_url: https://x.example\n  username: u\n  \
                password: env:SNOW\n  default_assignment_group: g\n  user_ticket_urgency: 2\n  audit_ticket_urgency: 3\nsso:\n  \
                start_url: https://s.example/start\n  region: eu-central-1\n  account_id: '012345678901'\n  role_name: r\n  \
                session_duration: 10\ndynamodb:\n  region: r\n  active_sessions_table: t\n  user_context_table: t\n  \
                transfer_requests_table: t\n  agent_learning_table: t\n  s3_file_cache_table: t\nstep_functions:\n  \
                state_machine_arn: arn:x\n";
    let config = read_with(text, &[]).unwrap();
    assert_eq!(config.thresholds, Thresholds { small: ByteCount::mib(1), large: ByteCount::mib(2) });
    let setting = |long: &str| config.settings.iter().find(|s| s.long == long).map(|s| s.values.clone());
    assert_eq!(setting("chunk-size"), Some(vec!["10485760B".to_owned()]));
    assert_eq!(setting("transfers"), Some(vec!["4".to_owned()]));
}

#[test]
fn variables_are_expanded_and_a_missing_one_is_named() {
    let config = read_with("copy:\n  s3_endpoint: https://${STORE}:9000\n  profile: $${x}\n", &[("STORE", "s3.example")]).unwrap();
    assert_eq!(config.settings[0].values, ["https://s3.example:9000"]);
    assert_eq!(config.settings[1].values, ["${x}"]);
    let text = mistake("copy:\n  verify: auto\n  profile: ${NO_SUCH}\n");
    assert!(text.starts_with("fileferry.yaml:3:") && text.contains("NO_SUCH"), "{text}");
}

#[test]
fn a_value_cannot_become_structure() {
    let config = read_with("copy:\n  profile: ${P}\n", &[("P", "x\n  resend: true")]).unwrap();
    assert_eq!(config.settings.len(), 1);
}

#[test]
fn literal_passwords_are_refused_without_showing_them() {
    for text in [
        "servicenow:\n  password: hunter2\n",
        "copy:\n  password: hunter2\n",
        "copy:\n  s3_endpoint: https://u:hunter2@h/\n",
        "servicenow:\n  instance_url: https://u:hunter2@h\n",
    ] {
        let message = mistake(text);
        assert!(message.contains("env:NAME") && !message.contains("hunter2"), "{message}");
    }
    assert!(read_with("servicenow:\n  password: ${SNOW_PASSWORD}\n", &[]).is_ok(), "a reference to the environment");
}

#[test]
fn a_session_longer_than_ten_seconds_is_refused() {
    assert!(mistake("sso:\n  session_duration: 11\n").contains("10 seconds"));
    assert!(read_with("sso:\n  session_duration: 10\n", &[]).is_ok());
}

#[test]
fn compression_is_refused_with_a_pointer() {
    assert!(mistake("transfer:\n  enable_compression: true\n").contains("not in this version"));
}

#[test]
fn the_same_setting_twice_is_a_mistake() {
    assert!(mistake("transfer:\n  default_chunk_size: 1M\ncopy:\n  chunk_size: 2M\n").contains("line 2"));
}

#[test]
fn the_first_file_counts_and_a_named_one_must_be_there() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("a.yaml"), directory.path().join("b.yaml"));
    std::fs::write(&second, "copy:\n  retries: 9\n").unwrap();
    let config = load(None, &[first.clone(), second.clone()], &|_| None).unwrap();
    assert_eq!(config.path, Some(second));
    assert!(load(Some(&first), &[], &|_| None).is_err());
    assert_eq!(load(None, &[first], &|_| None).unwrap().path, None);
}
