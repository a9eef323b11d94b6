//! Mistakes, help, explanations, configuration; and that no secret is printed.

use super::*;

#[test]
fn usage_errors_exit_1_and_help_exits_0() {
    let home = Home::new();
    for arguments in [
        &["copy"][..],
        &["copy", "s3://b/k", "sftp://h/in/", "--if-exist", "skip"],
        &["copy", "s3://b/k", "sftp://h/in/", "--chunk-size", "10"],
        &["copy", "s3://b/k", "sftp://h/in/", "--verify", "md5"],
        &["copy", "s3://b/k", "gopher://h/in/"],
        &["copy", "s3://b/k", "sftp://h/in/", "--active"],
        &["copy", "s3://b/k", "ftpes://h/in/", "--tls-min", "1.1"],
        &["copy", "s3://b/k", "ftpes://h/in/", "--client-key", "k.pem"],
        &["copy", "s3://b/out/", "sftp://h/in"],
        &["copy", "s3://b/k", "sftp://h/in/", "--host-key", "SHA256:short"],
        &["copy", "s3://b/k", "sftp://h/in/", "-v", "-q"],
        &["explain", "no_such_class"],
        &["resume", "--abandon"],
        &["resume", "not-an-id"],
        &["clean", "s3://b/"],
        &["nonsense"],
    ] {
        let ran = home.run(arguments);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{arguments:?}: {}", ran.err);
        assert!(ran.err.starts_with("error: "), "{arguments:?}: {}", ran.err);
    }
    for arguments in [&["--help"][..], &["copy", "--help"], &["--version"], &["receipt", "key", "--help"]] {
        let ran = home.run(arguments);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
    }
    assert!(home.run(&["copy", "--if-exist", "skip"]).err.contains("--if-exists"), "the flag that was meant is named");
}

#[test]
fn the_environment_gives_flags_and_a_mistake_there_is_a_usage_error() {
    let home = Home::new();
    let run = |value: &str| {
        let arguments = ["copy", "s3://b/k", "sftp://h/in/"];
        Ran::of(home.command(&arguments).env("FILEFERRY_CHUNK_SIZE", value).env("FILEFERRY_IF_EXISTS", "bogus").output().unwrap())
    };
    let ran = run("10M");
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("bogus") && ran.err.contains("replace-unsafe"), "{}", ran.err);
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let home = Home::new();
    home.write("fileferry.yaml", "copy:\n  retries: 11\n  preserve_time: false\n  include: ['*.file']\n");
    let asked = |flags: &[&str], variables: &[(&str, &str)]| {
        let arguments = [&["copy", "file:///no/such/file", "file:///no/such/directory/", "-vv"], flags].concat();
        Ran::of(home.command(&arguments).envs(variables.iter().copied()).output().unwrap()).err
    };
    let file = asked(&[], &[]);
    assert!(file.contains("retries: 11") && file.contains("preserve_time: false") && file.contains("include: [\"*.file\"]"), "{file}");
    let variables = [("FILEFERRY_RETRIES", "12"), ("FILEFERRY_PRESERVE_TIME", "1"), ("FILEFERRY_INCLUDE", "*.variable")];
    let variable = asked(&[], &variables);
    assert!(variable.contains("retries: 12") && variable.contains("preserve_time: true"), "{variable}");
    assert!(variable.contains("include: [\"*.variable\"]"), "{variable}");
    let flag = asked(&["--retries", "13", "--no-preserve-time", "--include", "*.flag"], &variables);
    assert!(flag.contains("retries: 13") && flag.contains("preserve_time: false") && flag.contains("include: [\"*.flag\"]"), "{flag}");
}

#[test]
fn explain_lists_the_classes_and_prints_a_page() {
    let home = Home::new();
    let list = home.run(&["explain"]);
    assert_eq!(list.code, 0);
    assert_eq!(list.out.lines().count(), model::ErrorClass::ALL.len());
    let page = home.run(&["explain", "dest_exists"]);
    assert!(page.out.starts_with("# dest_exists\n") && page.out.contains("--if-exists"));
    let objects = home.run(&["explain", "dest_exists", "--json"]).objects();
    assert_eq!((objects.len(), objects[0]["exit_code"].as_u64()), (1, Some(27)));
}

#[test]
fn configuration_is_found_and_its_mistakes_are_named() {
    let home = Home::new();
    home.write("config/fileferry/config.yaml", "copy:\n  verfy: auto\n");
    let ran = home.run(&["history"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("config.yaml:2: \"verfy\" is not a key of copy; did you mean \"verify\"?"), "{}", ran.err);
    // The working directory comes first, a file that is named before everything.
    home.write("fileferry.yaml", "sso:\n  session_duration: 60\n");
    assert!(home.run(&["history"]).err.contains("fileferry.yaml:2: sso.session_duration"));
    let named = home.write("other.yaml", "copy:\n  profile: ${FILEFERRY_TEST_UNSET}\n");
    let ran = home.run(&["history", "--config", text(&named)]);
    assert!(ran.err.contains("other.yaml:2:") && ran.err.contains("FILEFERRY_TEST_UNSET"), "{}", ran.err);
    assert_eq!(home.run(&["history", "--config", "/no/such/file.yaml"]).code, 1);
    let json = home.run(&["history", "--json"]);
    assert_eq!(json.objects()[0]["type"], "error");
    let secret = home.write("secret.yaml", "copy:\n  password_from: hunter2\n");
    let ran = home.run(&["history", "--config", text(&secret)]);
    assert!(ran.code == 1 && ran.err.contains("env:NAME") && !ran.err.contains("hunter2"), "{}", ran.err);
}

#[test]
fn errors_have_three_parts_and_json_keeps_stdout_pure() {
    let home = Home::new();
    let source = format!("file://{}", text(&home.path("no/such/file")));
    let destination = format!("file://{}/", text(&home.path("out")));
    let ran = home.run(&["copy", &source, &destination]);
    assert!(ran.code != 0 && ran.err.contains("whose move: ") && ran.err.contains("next: "), "{}", ran.err);
    assert!(ran.err.contains("fileferry explain "), "{}", ran.err);
    let ran = home.run(&["copy", &source, &destination, "--json", "-vvv"]);
    assert!(!ran.objects().is_empty());
    assert!(ran.objects().iter().all(|object| object["v"] == 1 && object["type"].is_string()));
    for arguments in [&["history", "--json"][..], &["explain", "--json"], &["receipt", "key", "show", "--json"]] {
        let ran = home.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.err);
        ran.objects();
    }
}

// SEMANTICS S24: "A password is in no record, receipt, log or output of the program, however it was given."
#[test]
fn no_secret_is_in_any_output_or_file() {
    let home = Home::new();
    let secret = "hunter2-not-to-be-seen";
    let url = format!("sftp://u:{secret}@127.0.0.1:1/in/");
    let source = format!("file://{}", text(&home.write("data", "x")));
    let password = home.write("password", secret);
    let reference = format!("file:{}", text(&password));
    for arguments in [
        &["copy", &source, &url, "-vvv", "--json"][..],
        &["copy", &source, &url, "--retries", "0"],
        &["copy", &source, "sftp://u@127.0.0.1:1/in/", "--password-from", &reference, "-vv"],
        &["copy", &source, "sftp://u@127.0.0.1:1/in/", "--password-from", secret],
        &["copy", &url, &url],
        &["copy", &source, &format!("sftp://u:{secret}@h:0/in/")],
        &["ls", &url],
        &["ls", "x", &url],
        &["ls", "s3://b/", "--s3-endpoint", &format!("https://u:{secret}@h/")],
        &["copy", "--oops", &url, &url, "--json"],
    ] {
        let mut command = home.command(arguments);
        command.env("FILEFERRY_RETRIES", "0").env("FILEFERRY_CONNECT_TIMEOUT", "2s");
        let ran = Ran::of(command.output().unwrap());
        assert_ne!(ran.code, 0);
        assert!(!ran.out.contains(secret) && !ran.err.contains(secret), "{arguments:?}\n{}\n{}", ran.out, ran.err);
    }
    let ran = home.run(&["copy", &source, &url, "--retries", "0"]);
    assert!(ran.err.contains("warning: a password in a URL"), "{}", ran.err);
    std::fs::remove_file(password).unwrap();
    let mut directories = vec![home.0.path().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "{}", path.display());
            }
        }
    }
}

#[test]
fn without_a_terminal_nobody_is_asked_for_a_password() {
    let home = Home::new();
    let source = format!("file://{}", text(&home.write("data", "x")));
    let ran = home.run(&["copy", &source, "sftp://u@127.0.0.1:1/in/", "--password-from", "prompt"]);
    assert_eq!(ran.code, 24, "{}", ran.err);
    assert!(ran.err.contains("no terminal"));
}

#[test]
fn a_closed_stdout_is_not_a_panic() {
    let home = Home::new();
    let mut child = home.command(&["explain"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn the_examples_in_the_reference_are_lines_of_this_form() {
    let reference = include_str!("../../../../docs/reference.md");
    let block = reference.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    for line in block.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(object["v"] == 1 && object["type"].is_string(), "{line}");
    }
    let example = reference.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let home = Home::new();
    home.write("fileferry.yaml", example);
    let ran = home.run(&["history"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
}
