//! Names from rclone.conf in the place of addresses: every command, secrets, resuming, and what could not be taken over.

use testkit::s3::Content;
use testkit::sftp::SftpServer;

use super::shop::*;
use super::*;

/// "hunter2 $ äö" as `rclone obscure` wrote it once.
const OBSCURED: &str = "2cq4LICa2mvrH2epH4XsRby8P8ev434YTUeTGceQ";
const PASSWORD: &str = "hunter2 $ äö";
const KEY: &str = "fixture-secret-key";

async fn partner() -> SftpServer {
    let server = SftpServer::builder().password(PASSWORD).start().await.unwrap();
    std::fs::create_dir_all(server.file("/in")).unwrap();
    server
}

/// No credentials but those of the file.
fn run(shop: &Shop, arguments: &[&str]) -> Ran {
    ended(shop.start(shop.home.command(arguments)))
}

fn write_names(shop: &Shop, server: &SftpServer) {
    let line = server.known_hosts_line();
    let key: Vec<&str> = line.split(' ').skip(1).take(2).collect();
    let text = format!(
        "[myS3]\ntype = s3\nprovider = Minio\nendpoint = {}\nregion = us-east-1\naccess_key_id = AKIATEST\nsecret_access_key = {KEY}\n\
         upload_concurrency = 8\n\n[partner]\ntype = sftp\nhost = 127.0.0.1\nport = {}\nuser = {}\npass = {OBSCURED}\nhost_keys = {}\n\
         chunk_size = 255Ki\n\n[inbox]\ntype = alias\nremote = partner:/in\n",
        shop.server.endpoint(),
        server.address().port(),
        server.user(),
        key.join(" "),
    );
    shop.home.write("config/rclone/rclone.conf", &text);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_stand_for_addresses_in_every_command() {
    let shop = shop().await;
    let server = partner().await;
    write_names(&shop, &server);
    shop.bucket.put("p/a", "content");
    shop.bucket.put("p/b", "more");
    let ran = run(&shop, &["copy", "myS3:b/p/", "partner:/in/", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(std::fs::read(server.file("/in/a")).unwrap(), b"content");
    for (remote, key) in [("myS3", "upload_concurrency"), ("partner", "chunk_size")] {
        let told = format!("rclone.conf: {remote}: `{key}`");
        assert_eq!(ran.err.matches(&told).count(), 1, "{}", ran.err);
        let objects = ran.objects();
        assert_eq!(objects.iter().filter(|o| o["type"] == "unmapped" && o["remote"] == remote && o["key"] == key).count(), 1);
    }
    let ran = run(&shop, &["ls", "inbox:"]);
    assert!(ran.code == 0 && ran.out.contains("  a\n") && ran.out.contains("  b\n"), "{}{}", ran.out, ran.err);
    let ran = run(&shop, &["check", "myS3:b/p/", "inbox:/"]);
    assert!(ran.code == 0 && ran.out.contains("2 same"), "{}{}", ran.out, ran.err);
    for name in ["myS3:b/p/a", "inbox:a"] {
        let ran = run(&shop, &["hash", name, "--digest", "md5"]);
        assert!(ran.code == 0 && ran.out.starts_with("9a0364b9e99bb480dd25e1f0284c8555"), "{name}: {}{}", ran.out, ran.err);
    }
    let ran = run(&shop, &["clean", "inbox:/"]);
    assert!(ran.code == 0 && ran.out.contains("0 removed"), "{}{}", ran.out, ran.err);
    // A second run is the same copy, also under its URLs.
    let url = format!("sftp://{}@{}/in/", server.user(), server.address());
    let pin = server.host_key_fingerprint();
    let arguments = ["copy", "s3://b/p/", &url, "--host-key", &pin, "--password-from", "rclone:partner"];
    let ran = ended(shop.start(shop.command(&arguments)));
    assert_eq!((ran.code, ran.summary()["unchanged"].as_u64()), (0, Some(2)), "{}{}", ran.out, ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_finds_the_secrets_where_they_were_and_keeps_none() {
    let shop = shop().await;
    let server = partner().await;
    write_names(&shop, &server);
    let other = shop.home.path("names.conf");
    std::fs::rename(shop.home.path("config/rclone/rclone.conf"), &other).unwrap();
    shop.bucket.put("a", Content::generated(1, 6 << 20));
    let arguments = ["copy", "myS3:b/a", "partner:/in/", "--rclone-config", "names.conf", "--bwlimit", "2M", "-vvv"];
    let child = shop.start(shop.home.command(&arguments));
    let begun = || std::fs::read_dir(server.file("/in")).unwrap().any(|file| file.unwrap().metadata().is_ok_and(|m| m.len() > 1 << 20));
    wait_until("a megabyte", begun);
    signal(child.id(), "INT");
    let ran = ended(child);
    assert_eq!(ran.code, 130, "{}", ran.err);
    for text in [&ran.out, &ran.err] {
        assert!(!text.contains(PASSWORD) && !text.contains(KEY) && !text.contains(OBSCURED), "{text}");
    }
    let ran = run(&shop, &["resume", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(std::fs::metadata(server.file("/in/a")).unwrap().len(), 6 << 20);
    std::fs::remove_file(other).unwrap();
    for (name, bytes) in files_below(shop.home.0.path()) {
        for secret in [PASSWORD, KEY, OBSCURED] {
            assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "{}", String::from_utf8_lossy(&name));
        }
    }
}

#[test]
fn what_is_neither_a_url_nor_a_name_is_a_usage_error() {
    let home = Home::new();
    home.write(
        "config/rclone/rclone.conf",
        "[one]\ntype = s3\n[two]\ntype = webdav\n[strict]\ntype=ftp\nhost=h\ntls=true\nno_check_certificate=true\n",
    );
    for (arguments, words) in [
        (&["copy", "C:\\x", "file:///in/"][..], &["C: is neither", "one, strict, two"][..]),
        (&["copy", "two:x", "file:///in/"], &["\"webdav\"", "s3, sftp, ftp, alias and local"]),
        (&["ls", ":s3:b/"], &["settings on the command line"]),
        (&["ls", "strict:x", "--no-progress=x"], &["unexpected argument"]),
        (&["ls", "strict:x"], &["--tls-pin"]),
        (&["ls", "one:b/", "--rclone-config", "/no/such"], &["/no/such: cannot be read"]),
        (&["copy", "one:b/x", "one:b/y"], &["cannot be a destination"]),
    ] {
        let ran = home.run(arguments);
        assert_eq!(ran.code, 1, "{arguments:?}: {}", ran.err);
        assert!(words.iter().all(|word| ran.err.contains(word)), "{arguments:?}: {}", ran.err);
    }
    home.write("config/rclone/rclone.conf", "# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\nxyz\n");
    let ran = home.run(&["ls", "one:b/"]);
    assert!(ran.code == 1 && ran.err.contains("rclone config show"), "{}", ran.err);
}
