//! Which source of a setting wins, and what becomes of passwords.

use super::*;
use crate::config::SETTINGS;
use std::path::Path;

fn request(line: &str, file: &str) -> Result<Request, String> {
    let arguments: Vec<OsString> = std::iter::once("fileferry").chain(line.split_whitespace()).map(OsString::from).collect();
    parse(&arguments, |_| config::read(Path::new("fileferry.yaml"), file, &|_| None)).map_err(|e| match e {
        ParseError::Clap(e) => e.to_string(),
        ParseError::Config(e) => e.to_string(),
    })
}

fn environment() -> Environment {
    Environment { home: "/home/u".into(), can_ask: false, ..Environment::read() }
}

fn spec(line: &str, file: &str) -> CopySpec {
    let request = request(line, file).unwrap();
    let crate::args::Command::Copy(args) = &request.cli.command else { panic!() };
    copy_spec(args, request.choices, request.thresholds, &environment()).unwrap().0
}

const COPY: &str = "copy s3://b/k sftp://u@h/in/";

#[test]
fn a_copy_without_flags_has_the_documented_defaults() {
    assert_eq!(spec(COPY, "").options, Options::default());
}

#[test]
fn the_command_line_overrides_the_file() {
    let file = "copy:\n  retries: 9\n  chunk_size: 1M\n  include: ['*.csv', '*.txt']\n  preserve_time: false\n  identity: ~/.ssh/k\n";
    let spec = spec(&format!("{COPY} --chunk-size 2M"), file);
    assert_eq!((spec.options.retries, spec.options.chunk_size), (9, model::ByteCount::mib(2)));
    assert_eq!(spec.options.include, ["*.csv", "*.txt"]);
    assert!(!spec.options.preserve_time);
    assert_eq!(spec.server.identities, [Path::new("/home/u/.ssh/k")]);
}

#[test]
fn contradicting_flags_are_settled_by_their_source_then_by_order() {
    let mkdir = |line: &str, file: &str| spec(&format!("{COPY} {line}"), file).options.mkdir;
    assert_eq!(mkdir("", "copy:\n  mkdir: false\n"), Mkdir::Never);
    assert_eq!(mkdir("--mkdir", "copy:\n  mkdir: false\n"), Mkdir::All);
    assert_eq!(mkdir("--mkdir --no-mkdir", ""), Mkdir::Never);
    assert_eq!(mkdir("--no-mkdir --mkdir", ""), Mkdir::All);
    assert_eq!(mkdir("", ""), Mkdir::Below);
    let name = |line: &str, file: &str| spec(&format!("{COPY} {line}"), file).options.name;
    assert_eq!(name("--flatten", "copy:\n  name: 'x-{key}'\n"), NameTemplate::flatten());
    assert_eq!(name("--name y-{key} --flatten", ""), NameTemplate::flatten());
    assert_eq!(name("--flatten --name y-{key}", "").as_str(), "y-{key}");
    assert_eq!(name("--name y-{key}", "copy:\n  flatten: true\n").as_str(), "y-{key}");
}

#[test]
fn every_setting_of_the_file_reaches_its_flag() {
    let copy = args::command().find_subcommand("copy").unwrap().clone();
    for long in SETTINGS {
        assert!(copy.get_arguments().any(|arg| arg.get_long() == Some(long)), "--{long}");
    }
}

#[test]
fn a_bad_value_in_the_file_is_named_with_its_line_also_for_other_commands() {
    for line in [COPY, "history"] {
        let text = request(line, "copy:\n  retries: 3\n  chunk_size: 10\n").unwrap_err();
        assert!(text.starts_with("fileferry.yaml:3: copy.chunk_size:") && text.contains("10B"), "{text}");
    }
    assert!(request(COPY, "copy:\n  flatten: perhaps\n").unwrap_err().contains("true or false"));
    assert!(request(COPY, "transfer:\n  max_parallel_threads: 0\n").unwrap_err().contains("transfer.max_parallel_threads"));
}

#[test]
fn a_password_in_the_url_stays_out_of_the_spec() {
    let request = request("copy s3://b/k sftp://u:hunter2@h/in/", "").unwrap();
    let crate::args::Command::Copy(args) = &request.cli.command else { panic!() };
    let (spec, password) = copy_spec(args, request.choices, request.thresholds, &environment()).unwrap();
    assert_eq!(password.unwrap().expose(), "hunter2");
    assert!(!serde_json::to_string(&spec).unwrap().contains("hunter2"));
}

#[test]
fn addresses_that_cannot_work_are_usage_errors() {
    for line in ["copy sftp://h/a sftp://h/b", "copy s3://b/k s3://b/x", "copy s3://b/out/ sftp://h/in", "copy b/k sftp://h/in"] {
        let request = request(line, "").unwrap();
        let crate::args::Command::Copy(args) = &request.cli.command else { panic!() };
        assert_eq!(copy_spec(args, request.choices, request.thresholds, &environment()).unwrap_err().exit_code, 1, "{line}");
    }
}

#[test]
fn flags_of_another_protocol_are_refused_where_they_are_typed_and_ignored_where_they_are_set() {
    let fits = |line: &str, file: &str| request(line, file).unwrap().fits().map_err(|trouble| trouble.what);
    for (line, words) in [
        ("copy s3://b/k sftp://u@h/in/ --tls-pin SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU", ["--tls-pin", "sftp://"]),
        ("copy s3://b/k ftp://u@h/in/ --ca-file ca.pem", ["--ca-file", "ftp://"]),
        ("copy s3://b/k ftp://u@h/in/ --host-key SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU", ["--host-key", "ftp://"]),
        ("check s3://b/k ftpes://u@h/in/ --known-hosts x", ["--known-hosts", "ftpes://"]),
        ("ls ftps://u@h/in/ --identity x", ["--identity", "ftps://"]),
        ("hash sftp://u@h/in/a --active", ["--active", "sftp://"]),
        ("clean sftp://u@h/in/ --tls-min 1.3", ["--tls-min", "sftp://"]),
        ("ls ftpes://u@h/in/ --client-key k.pem", ["--client-key", "--client-cert"]),
    ] {
        let what = fits(line, "").unwrap_err();
        assert!(words.iter().all(|word| what.contains(word)), "{line}: {what}");
    }
    for line in [
        "copy s3://b/k ftpes://u@h/in/ --ca-file ca.pem --tls-min 1.2 --client-cert c.pem --active --bind 127.0.0.1",
        "copy s3://b/k ftp://u@h/in/ --active",
        "copy s3://b/k sftp://u@h/in/ --identity x",
        "ls s3://b/ --ca-file x",
    ] {
        assert_eq!(fits(line, ""), Ok(()), "{line}");
    }
    assert_eq!(fits(COPY, "copy:\n  ca_file: ca.pem\n  active: true\n"), Ok(()));
}

#[test]
fn the_settings_of_ftp_reach_the_spec_from_flags_and_from_the_file() {
    const FTPES: &str = "copy s3://b/k ftpes://u@h/in/";
    let file = "copy:\n  ca_file: [~/ca.pem, /b.pem]\n  tls_min: '1.3'\n  client_cert: c.pem\n  active: true\n";
    let server = spec(FTPES, file).server;
    assert_eq!(server.ca_files, [Path::new("/home/u/ca.pem"), Path::new("/b.pem")]);
    assert_eq!((server.tls_min, server.active, server.client_key), (Some(TlsMinimum::V1_3), true, None));
    assert_eq!(server.client_cert.as_deref(), Some(Path::new("c.pem")));
    let server = spec(&format!("{FTPES} --tls-min 1.2 --client-key k.pem"), file).server;
    assert_eq!((server.tls_min, server.client_key.as_deref()), (Some(TlsMinimum::V1_2), Some(Path::new("k.pem"))));
    let text = request(FTPES, "copy:\n  ca_fil: x\n").unwrap_err();
    assert!(text.contains("did you mean \"ca_file\""), "{text}");
    assert!(request(FTPES, "copy:\n  tls_min: '1.1'\n").unwrap_err().contains("copy.tls_min"));
}

#[test]
fn a_certificate_is_pinned_in_base64_or_as_openssl_prints_it() {
    const PIN: &str = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let pairs: Vec<&str> = (0..32).map(|i| &hex[2 * i..2 * i + 2]).collect();
    for text in [PIN.to_owned(), format!("{PIN}="), format!("SHA256:{hex}"), format!("SHA256:{}", pairs.join(":").to_uppercase())] {
        assert_eq!(spec(&format!("copy s3://b/k ftpes://u@h/in/ --tls-pin {text}"), "").server.tls_pins, [PIN], "{text}");
    }
    for text in ["SHA256:short", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU", "SHA1:00"] {
        assert!(request(&format!("copy s3://b/k ftpes://u@h/in/ --tls-pin {text}"), "").is_err(), "{text}");
    }
}

fn nowhere() -> Place {
    let lease = app::transfers::LEASE;
    Place { state: "/".into(), home: "/".into(), login_name: None, ssh_agent: None, lease, prompt: None, sealed: None }
}

#[test]
fn a_named_password_outweighs_the_one_in_the_url() {
    let place = nowhere();
    let in_url = || Some(Credential::new("in-url"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "from-file\n").unwrap();
    let reference = format!("file:{}", file.path().display());
    assert_eq!(credential(in_url(), Some(&reference), "ftpes://h/", &place).unwrap().unwrap().expose(), "from-file");
    assert_eq!(credential(in_url(), None, "ftpes://h/", &place).unwrap().unwrap().expose(), "in-url");
}

#[test]
fn without_a_terminal_nobody_is_asked_and_the_class_is_authentication() {
    let place = nowhere();
    assert_eq!(credential(None, Some("prompt"), "sftp://h/x", &place).unwrap_err().exit_code, 24);
    assert_eq!(credential(None, Some("aws-sm:x"), "sftp://h/x", &place).unwrap_err().exit_code, 1);
    assert_eq!(credential(None, None, "sftp://h/x", &place).unwrap(), None);
}

#[test]
fn every_long_flag_has_its_variable_and_stands_in_the_reference() {
    fn walk(command: &clap::Command, reference: &str, seen: &mut usize) {
        for arg in command.get_arguments() {
            let Some(long) = arg.get_long().filter(|long| !matches!(*long, "help" | "version")) else { continue };
            let variable = args::variable(long);
            assert_eq!(arg.get_env().and_then(|e| e.to_str()), Some(variable.as_str()), "{} --{long}", command.get_name());
            assert!(reference.contains(&format!("`--{long}")), "--{long} is not in docs/reference.md");
            assert!(reference.contains(&variable), "{variable} is not in docs/reference.md");
            if SETTINGS.contains(&long) {
                assert!(reference.contains(&format!("`{}`", long.replace('-', "_"))), "the key of --{long} is not in docs/reference.md");
            }
            *seen += 1;
        }
        command.get_subcommands().for_each(|sub| walk(sub, reference, seen));
    }
    let mut seen = 0;
    walk(&args::command(), include_str!("../../../docs/reference.md"), &mut seen);
    assert!(seen > 60, "only {seen} flags were looked at");
}
