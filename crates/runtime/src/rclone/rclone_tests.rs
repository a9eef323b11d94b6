//! A file that rclone 1.75 wrote, and whatever else may stand in its place.

use proptest::prelude::*;

use super::*;

/// Made by `rclone config create`; none of it leads anywhere.
const FIXTURE: &str = include_str!("fixture.conf");

struct Shelf {
    home: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

impl Shelf {
    fn new(text: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join(".config/rclone")).unwrap();
        std::fs::write(home.path().join(".config/rclone/rclone.conf"), text).unwrap();
        Self { home, variables: Vec::new() }
    }

    fn places(&self) -> Places {
        Places {
            named: None,
            home: self.home.path().to_owned(),
            config_home: None,
            working: "/srv/here".into(),
            variables: self.variables.clone(),
        }
    }

    fn expand(&self, text: &str) -> Result<Remote, String> {
        expand(text, &self.places(), false).map(Option::unwrap).map_err(|failure| {
            assert_eq!(failure.exit_code, 1);
            format!("{} / {}", failure.message, failure.next.unwrap_or_default())
        })
    }

    fn secret(&self, reference: &str) -> String {
        let place = SecretPlace::parse(reference.strip_prefix("rclone:").unwrap()).unwrap();
        assert_eq!(place.file, Some(self.home.path().join(".config/rclone/rclone.conf")), "resume finds the same file");
        place.resolve().unwrap().expose().to_owned()
    }
}

fn keys(remote: &Remote) -> Vec<&str> {
    remote.unmapped.iter().map(|one| one.key.as_str()).collect()
}

#[test]
fn stores_become_addresses_and_references() {
    let shelf = Shelf::new(FIXTURE);
    let remote = shelf.expand("myS3:bucket/out/").unwrap();
    assert_eq!(remote.url, "s3://bucket/out/");
    assert_eq!(remote.s3.endpoint.as_deref(), Some("https://minio.example:9000"));
    assert_eq!((remote.s3.region.as_deref(), remote.s3.request_payer, remote.s3.no_sign_request), (Some("eu-central-1"), true, false));
    assert_eq!(keys(&remote), ["chunk_size", "upload_concurrency"]);
    let reference = remote.s3.access_key_from.unwrap();
    assert_eq!(shelf.secret(&reference), "fixture-secret-key");
    let key = SecretPlace::parse(reference.strip_prefix("rclone:").unwrap()).unwrap().access_key().unwrap();
    assert_eq!((key.id.as_str(), key.session_token), ("AKIAFIXTURE", None));
    let public = shelf.expand("public-data:b/k").unwrap();
    assert!(public.s3.no_sign_request && public.s3.access_key_from.is_none(), "rclone reads without a login there");
    let team = shelf.expand("team aws:b/").unwrap();
    assert_eq!((team.s3.profile.as_deref(), team.s3.no_sign_request, keys(&team)), (Some("team"), false, vec!["storage_class"]));
    assert!(shelf.expand("myS3:").unwrap_err().contains("no bucket"));
}

#[test]
fn partners_become_addresses_and_their_passwords_stay_where_they_are() {
    let shelf = Shelf::new(FIXTURE);
    let remote = shelf.expand("partner:inbox/").unwrap();
    assert_eq!(remote.url, "sftp://me%40corp@sftp.partner.example:2222/~/inbox/");
    assert_eq!(shelf.expand("partner:/abs/a.csv").unwrap().url, "sftp://me%40corp@sftp.partner.example:2222/abs/a.csv");
    let server = &remote.server;
    assert_eq!(server.identities, [shelf.home.path().join(".ssh/partner")]);
    assert_eq!(server.known_hosts, [shelf.home.path().join(".ssh/partner_hosts")]);
    assert_eq!(shelf.secret(server.password_from.as_ref().unwrap()), "hunter2 $ äö");
    assert_eq!(shelf.secret(server.key_passphrase_from.as_ref().unwrap()), "sesame");
    assert_eq!(server.proxy.as_ref().unwrap().to_string(), "socks5h://ann@proxy.example:1080");
    assert_eq!(shelf.secret(server.proxy_password_from.as_ref().unwrap()), "prox:y");
    assert_eq!(keys(&remote), ["chunk_size", "disable_hashcheck"]);
    // Nothing that is stored or printed holds a secret.
    let stored = serde_json::to_string(server).unwrap();
    for text in [&stored, &format!("{remote:?}"), &format!("{:?}", Remotes::open(&shelf.places()).unwrap())] {
        assert!(!text.contains("hunter2") && !text.contains("sesame") && !text.contains("prox:y") && !text.contains("2cq4LICa"), "{text}");
    }
    assert_eq!(shelf.expand("plain:in/").unwrap().url, "ftp://[::1]/~/in/");
}

#[test]
fn a_certificate_that_would_not_be_looked_at_is_refused_unless_it_is_pinned() {
    let shelf = Shelf::new(FIXTURE);
    let said = shelf.expand("strict:in/").unwrap_err();
    assert!(said.contains("no_check_certificate") && said.contains("--tls-pin"), "{said}");
    let remote = expand("strict:in/", &shelf.places(), true).unwrap().unwrap();
    assert_eq!((remote.url.as_str(), keys(&remote)), ("ftps://u@ftp.partner.example:990/~/in/", vec!["close_timeout", "disable_epsv"]));
}

#[test]
fn aliases_and_local_paths_lead_on() {
    let shelf = Shelf::new(&format!(
        "{FIXTURE}\n[there]\ntype = alias\nremote = inbox:sub/\n[disk]\ntype = alias\nremote = /data\n[a]\ntype=alias\nremote=b:\n[b]\ntype=alias\nremote=a:\n"
    ));
    assert_eq!(shelf.expand("inbox:a.csv").unwrap().url, "sftp://me%40corp@sftp.partner.example:2222/~/inbox/today/a.csv");
    assert_eq!(shelf.expand("there:x/").unwrap().url, "sftp://me%40corp@sftp.partner.example:2222/~/inbox/today/sub/x/");
    assert_eq!(shelf.expand("inbox:/").unwrap().url, "sftp://me%40corp@sftp.partner.example:2222/~/inbox/today/");
    assert_eq!(shelf.expand("disk:a/").unwrap().url, "file:///data/a/");
    assert_eq!(shelf.expand("here:/tmp/a").unwrap().url, "file:///tmp/a");
    assert_eq!(shelf.expand("here:sub/").unwrap().url, "file:///srv/here/sub/");
    assert!(shelf.expand("a:x").unwrap_err().contains("circle"));
}

#[test]
fn what_is_no_name_is_told_with_those_that_are() {
    let shelf = Shelf::new(FIXTURE);
    for text in ["s3://b/k", "sftp://u:p@h/x", "plain.txt", "./a:b", "/a:b"] {
        assert_eq!(expand(text, &shelf.places(), false).unwrap(), None, "{text}");
    }
    for (text, words) in [
        ("C:\\data", &["C: is neither", "myS3", "--rclone-config"][..]),
        ("Partner:x", &["neither", "partner"]),
        ("vault:x", &["\"crypt\"", "s3, sftp, ftp, alias and local"]),
        (":sftp,host=h:x", &["settings on the command line"]),
        ("partner,port=1:x", &["settings on the command line"]),
    ] {
        let said = shelf.expand(text).unwrap_err();
        assert!(words.iter().all(|word| said.contains(word)), "{text}: {said}");
    }
    let nothing = Shelf::new("");
    assert!(nothing.expand("a:b").unwrap_err().contains("no names"));
}

#[test]
fn the_file_is_found_named_and_its_state_told() {
    let shelf = Shelf::new("# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\nb5Uk6mE3cUn5Wb8xEWYnVBAxXUirAaEG\n");
    let said = shelf.expand("partner:x").unwrap_err();
    assert!(said.contains("is encrypted") && said.contains("rclone config show"), "{said}");
    let other = shelf.home.path().join("other.conf");
    std::fs::write(&other, FIXTURE).unwrap();
    let places = Places { named: Some(other.clone()), ..shelf.places() };
    assert!(expand("partner:x", &places, false).is_ok());
    let variables = vec![("RCLONE_CONFIG".to_owned(), other.display().to_string())];
    assert!(expand("partner:x", &Places { variables, ..shelf.places() }, false).is_ok());
    let places = Places { named: Some("/no/such/file".into()), ..shelf.places() };
    assert!(expand("partner:x", &places, false).unwrap_err().message.contains("/no/such/file: cannot be read"));
    for (text, word) in [("[a", "line 1"), ("x = y", "line 1 stands before"), ("[a]\nsecret-part", "line 2")] {
        let said = Shelf::new(text).expand("a:x").unwrap_err();
        assert!(said.contains(word) && !said.contains("secret-part"), "{said}");
    }
    let large = Shelf::new(&"#".repeat((1 << 20) + 1));
    assert!(large.expand("a:x").unwrap_err().contains("too large"));
}

#[test]
fn variables_define_and_outweigh() {
    let mut shelf = Shelf::new(FIXTURE);
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    shelf.variables = vec![
        variable("RCLONE_CONFIG_PARTNER_HOST", "other.example"),
        variable("RCLONE_CONFIG_ONLY_HERE_TYPE", "sftp"),
        variable("RCLONE_CONFIG_ONLY_HERE_HOST", "h"),
        variable("RCLONE_CONFIG_HALF_HOST", "h"),
    ];
    assert!(shelf.expand("partner:x").unwrap().url.contains("@other.example:2222/"));
    assert_eq!(shelf.expand("only-here:/x").unwrap().url, "sftp://h/x");
    assert!(shelf.expand("half:x").unwrap_err().contains("neither"), "without a type there is no remote");
}

#[test]
fn settings_that_cannot_be_are_named() {
    for (text, word) in [
        ("host = h\nport = 0", "65535"),
        ("host = h/x", "host is none"),
        ("user = u", "no host"),
        ("host = h\nhttp_proxy = gopher://x", "http_proxy"),
        ("host = h\nhost_keys = ssh-ed25519", "host_keys"),
    ] {
        let said = Shelf::new(&format!("[a]\ntype = sftp\n{text}\n")).expand("a:x").unwrap_err();
        assert!(said.contains(word) && said.contains("rclone.conf: a:"), "{text}: {said}");
    }
    for (text, word) in [("access_key_id = x", "only one"), ("endpoint = https://u:hush@h", "login")] {
        let said = Shelf::new(&format!("[a]\ntype = s3\n{text}\n")).expand("a:b/x").unwrap_err();
        assert!(said.contains(word) && !said.contains("hush"), "{text}: {said}");
    }
    let key = "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
    let pinned =
        Shelf::new(&format!("[a]\ntype = sftp\nhost = h\nhost_keys = ssh-ed25519 {key}\nhttp_proxy = http://p\n")).expand("a:x").unwrap();
    assert_eq!(pinned.server.host_keys, ["SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"]);
    assert_eq!(pinned.server.proxy.unwrap().to_string(), "http://p:80");
}

#[test]
fn passwords_that_are_not_obscured_are_told_and_not_shown() {
    let shelf = Shelf::new("[a]\ntype = sftp\nhost = h\npass = plain-password\n");
    let reference = shelf.expand("a:x").unwrap().server.password_from.unwrap();
    let error = SecretPlace::parse(reference.strip_prefix("rclone:").unwrap()).unwrap().resolve().unwrap_err();
    assert!(error.contains("not obscured") && !error.contains("plain-password"), "{error}");
}

#[test]
fn no_text_breaks_the_reader_of_rclone_conf() {
    testkit::fuzz::feed("rclone_conf", super::fuzzing::configuration);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Any text is a file with sections or a mistake, never a panic, and no message repeats a value.
    #[test]
    fn any_text_is_read(lines in prop::collection::vec("\\[?[a-z\\]]{0,3} ?[=;#]? ?(hush)?[ -~]{0,6}", 0..12)) {
        let text = lines.join("\n");
        if let Err(said) = file::sections(&text) {
            prop_assert!(!said.contains("hush"), "{}", said);
        }
    }

    #[test]
    fn any_obscured_text_is_answered(text in "[A-Za-z0-9_-]{0,80}") {
        let _ = obscure::reveal(&text);
    }

    /// What was written as settings is read again.
    #[test]
    fn settings_survive(values in prop::collection::btree_map("[a-z_]{1,8}", "[!-~]([ -~]{0,10}[!-~])?", 0..8), name in "[A-Za-z0-9_. +@-]{1,10}") {
        let mut text = format!("[{name}]\n");
        for (key, value) in &values {
            text += &format!("{key} = {value}\n");
        }
        let read = file::sections(&text).unwrap();
        prop_assert_eq!(&read[&name], &values);
    }
}
