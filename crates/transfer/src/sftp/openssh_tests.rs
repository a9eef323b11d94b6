//! Logs in at OpenSSH's sshd with every kind of key, the agent and certificates; skipped where it is not installed.

use super::*;

const SSHD: &str = "/usr/sbin/sshd";

/// sshd, started once per connection with the socket as its standard input, so that it needs no port of its own.
struct Sshd {
    directory: TempDir,
    address: SocketAddr,
    user: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sshd {
    /// `None` where OpenSSH's server is not installed. `settings` may hold `{d}` for the directory.
    async fn start(prepare: impl FnOnce(&Path), settings: &str) -> Option<Self> {
        if !Path::new(SSHD).exists() {
            eprintln!("skipped: {SSHD} is not installed");
            return None;
        }
        // Where sshd runs as root it wants this directory, which the distribution's service makes.
        let _ = std::fs::create_dir_all("/run/sshd");
        let directory = TempDir::new().unwrap();
        let path = directory.path();
        for kind in ["ed25519", "ecdsa", "rsa"] {
            key(path, &format!("host_{kind}"), &["-t", kind], "");
        }
        prepare(path);
        let base = "HostKey {d}/host_ed25519\nHostKey {d}/host_ecdsa\nHostKey {d}/host_rsa\nUsePAM no\nStrictModes no\nPidFile none\n\
                    PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nAuthorizedKeysFile {d}/authorized\n";
        let text = format!("{settings}\n{base}").replace("{d}", path.to_str().unwrap());
        let file = path.join("sshd_config");
        std::fs::write(&file, text).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stream = stream.into_std().unwrap();
                stream.set_nonblocking(false).unwrap();
                let mut command = Command::new(SSHD);
                command.args(["-i", "-e", "-f"]).arg(&file).stderr(Stdio::null());
                command.stdin(std::os::fd::OwnedFd::from(stream.try_clone().unwrap())).stdout(std::os::fd::OwnedFd::from(stream));
                let mut child = command.spawn().unwrap();
                std::thread::spawn(move || child.wait());
            }
        });
        let user = Command::new("id").arg("-un").output().unwrap();
        Some(Self { directory, address, user: String::from_utf8(user.stdout).unwrap().trim().to_owned(), task })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn authorize(&self, keys: &[&Path]) {
        let text: Vec<String> = keys.iter().map(|path| public(path)).collect();
        std::fs::write(self.path("authorized"), text.join("\n")).unwrap();
    }

    /// Trusts the server through a known_hosts line for `kind`.
    fn config(&self, kind: &str) -> SftpConfig {
        let mut config = config(self.address, &self.user);
        let file = self.path("known_hosts");
        std::fs::write(&file, format!("[127.0.0.1]:{} {}\n", self.address.port(), public(&self.path(&format!("host_{kind}"))))).unwrap();
        config.known_hosts = vec![file];
        config
    }
}

#[tokio::test]
async fn keys_of_every_kind_log_in_at_openssh() {
    let Some(sshd) = Sshd::start(|_| {}, "").await else { return };
    let d = sshd.directory.path();
    let keys = [
        (key(d, "ed", &["-t", "ed25519"], ""), None),
        (key(d, "ec", &["-t", "ecdsa", "-b", "384"], ""), None),
        (key(d, "rsa", &["-t", "rsa", "-b", "2048"], ""), None),
        (key(d, "locked", &["-t", "ed25519"], "open sesame"), Some("open sesame")),
        (key(d, "pkcs8", &["-t", "ecdsa", "-m", "PKCS8"], ""), None),
        (key(d, "locked8", &["-t", "rsa", "-m", "PKCS8"], "open sesame"), Some("open sesame")),
    ];
    for (path, passphrase) in &keys {
        sshd.authorize(&[path]);
        let mut config = sshd.config("ed25519");
        config.identities = vec![Identity { passphrase: passphrase.map(Secret::new), ..identity(path) }];
        let opened = open_session(&config).await.unwrap_or_else(|e| panic!("{}: {}", path.display(), chain(&e)));
        assert!(opened.identity.software.unwrap().contains("OpenSSH"));
        assert_eq!(opened.identity.host_key, Some(print_of(&sshd.path("host_ed25519"))));
        assert!(opened.identity.notes.is_empty(), "{:?}", opened.identity.notes);
    }
    let locked = &keys[3].0;
    sshd.authorize(&[locked]);
    let mut config = sshd.config("ed25519");
    for (passphrase, word) in [(None, "no passphrase"), (Some("wrong-phrase"), "passphrase is wrong")] {
        config.identities = vec![Identity { passphrase: passphrase.map(Secret::new), ..identity(locked) }];
        let error = error_of(&config).await;
        let text = chain(&error);
        assert!(error.kind == ErrorKind::DestAuth && text.contains(word) && !text.contains("wrong-phrase"), "{text}");
    }
    config.identities = vec![identity(locked)];
    config.prompt = Some(Arc::new(Answers { given: vec!["open sesame"], ..Default::default() }));
    open_session(&config).await.unwrap();
}

#[tokio::test]
async fn two_keys_in_one_login_and_a_stranger_between_them() {
    let Some(sshd) = Sshd::start(|_| {}, "AuthenticationMethods publickey,publickey").await else { return };
    let d = sshd.directory.path();
    let [one, stranger, two] = ["one", "stranger", "two"].map(|name| key(d, name, &["-t", "ed25519"], ""));
    sshd.authorize(&[&one, &two]);
    let mut config = sshd.config("ed25519");
    config.identities = vec![identity(&one), identity(&stranger), identity(&two)];
    open_session(&config).await.unwrap();
    config.identities.pop();
    let error = error_of(&config).await;
    let text = chain(&error);
    assert!(error.kind == ErrorKind::DestAuth && text.contains("one (accepted)") && text.contains("stranger (refused)"), "{text}");
}

/// A child that ends with its test, also with a failing one.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_agent_signs_and_is_not_asked_for_more_than_servers_tolerate() {
    let Some(sshd) = Sshd::start(|_| {}, "").await else { return };
    let socket = sshd.path("agent");
    let mut agent = Running(Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket).stdout(Stdio::null()).spawn().unwrap());
    let add =
        |path: &Path| Command::new("ssh-add").arg("-q").arg(path).env("SSH_AUTH_SOCK", &socket).stdin(Stdio::null()).status().unwrap();
    let d = sshd.directory.path();
    let good = key(d, "good", &["-t", "rsa", "-b", "2048"], "");
    // ssh-add fails until the agent listens.
    while !add(&good).success() {
        assert!(agent.0.try_wait().unwrap().is_none(), "ssh-agent ended");
        tokio::task::yield_now().await;
    }
    sshd.authorize(&[&good]);
    let mut config = sshd.config("ed25519");
    config.use_agent = true;
    config.agent_socket = Some(socket.clone());
    open_session(&config).await.unwrap();

    // The agent's key serves an encrypted file of the same key without its passphrase.
    let copy = d.join("copy");
    std::fs::copy(&good, &copy).unwrap();
    std::fs::copy(good.with_extension("pub"), copy.with_extension("pub")).unwrap();
    keygen(&["-q", "-p", "-P", "", "-N", "open sesame", "-f", copy.to_str().unwrap()]);
    config.identities = vec![identity(&copy)];
    config.identities_only = true;
    open_session(&config).await.unwrap();

    sshd.authorize(&[]);
    for number in 0..7 {
        assert!(add(&key(d, &format!("more{number}"), &["-t", "ed25519"], "")).success());
    }
    config.identities = Vec::new();
    config.identities_only = false;
    let error = error_of(&config).await;
    let text = chain(&error);
    assert!(error.kind == ErrorKind::DestAuth && !text.contains("Too many") && text.contains("3 more keys"), "{text}");
}

#[tokio::test]
async fn being_thrown_out_for_too_many_keys_is_an_authentication_error() {
    let Some(sshd) = Sshd::start(|_| {}, "MaxAuthTries 2").await else { return };
    let keys = ["a", "b", "c"].map(|name| key(sshd.directory.path(), name, &["-t", "ed25519"], ""));
    sshd.authorize(&[]);
    let mut config = sshd.config("ed25519");
    config.identities = keys.iter().map(|path| identity(path)).collect();
    let error = error_of(&config).await;
    let text = chain(&error);
    assert!(error.kind == ErrorKind::DestAuth && text.contains("Too many authentication failures") && text.contains("(refused)"), "{text}");
}

#[tokio::test]
async fn user_certificates_log_in_without_an_authorized_key() {
    let prepare = |d: &Path| {
        key(d, "ca", &["-t", "ed25519"], "");
    };
    let Some(sshd) = Sshd::start(prepare, "TrustedUserCAKeys {d}/ca.pub").await else { return };
    for kind in ["ed25519", "rsa"] {
        let path = key(sshd.directory.path(), kind, &["-t", kind], "");
        let public = path.with_extension("pub");
        let mut config = sshd.config("ed25519");
        config.identities = vec![identity(&path)];
        assert_eq!(error_of(&config).await.kind, ErrorKind::DestAuth);
        keygen(&["-q", "-s", sshd.path("ca").to_str().unwrap(), "-I", "test", "-n", &sshd.user, "-V", "+1h", public.to_str().unwrap()]);
        open_session(&config).await.unwrap_or_else(|e| panic!("{kind}: {}", chain(&e)));
    }
}

#[tokio::test]
async fn the_key_on_record_is_asked_for_when_a_server_has_several() {
    let Some(sshd) = Sshd::start(|_| {}, "").await else { return };
    let path = key(sshd.directory.path(), "id", &["-t", "ed25519"], "");
    sshd.authorize(&[&path]);
    for kind in ["rsa", "ecdsa", "ed25519"] {
        let mut config = sshd.config(kind);
        config.identities = vec![identity(&path)];
        let print = Some(print_of(&sshd.path(&format!("host_{kind}"))));
        assert_eq!(open_session(&config).await.unwrap().identity.host_key, print);
        keygen(&["-q", "-H", "-f", config.known_hosts[0].to_str().unwrap()]);
        assert_eq!(open_session(&config).await.unwrap().identity.host_key, print, "hashed");
        config.known_hosts.clear();
        config.host_key_pins = vec![print.clone().unwrap()];
        assert_eq!(open_session(&config).await.unwrap().identity.host_key, print, "pinned");
    }
}

#[tokio::test]
async fn a_host_certificate_counts_only_from_a_trusted_authority_and_for_this_host() {
    let prepare = |d: &Path| {
        key(d, "ca", &["-t", "ed25519"], "");
        let text = |name: &str| d.join(name).to_str().unwrap().to_owned();
        keygen(&["-q", "-h", "-s", &text("ca"), "-I", "host", "-n", "127.0.0.1", "-V", "+1h", &text("host_ed25519.pub")]);
        keygen(&["-q", "-h", "-s", &text("ca"), "-I", "host", "-n", "other.example", "-V", "+1h", &text("host_rsa.pub")]);
    };
    let Some(sshd) = Sshd::start(prepare, "HostCertificate {d}/host_ed25519-cert.pub").await else { return };
    let Some(wrong) = Sshd::start(prepare, "HostCertificate {d}/host_rsa-cert.pub").await else { return };
    let other = key(sshd.directory.path(), "other", &["-t", "ed25519"], "");
    for (server, authority, word) in
        [(&sshd, sshd.path("ca"), None), (&sshd, other, Some("not trusted")), (&wrong, wrong.path("ca"), Some("other.example"))]
    {
        let path = server.path("id");
        if !path.exists() {
            key(server.directory.path(), "id", &["-t", "ed25519"], "");
        }
        server.authorize(&[&path]);
        let mut config = server.config("ed25519");
        config.identities = vec![identity(&path)];
        std::fs::write(&config.known_hosts[0], format!("@cert-authority [127.*]:* {}\n", public(&authority))).unwrap();
        match (open_session(&config).await, word) {
            (Ok(opened), None) => assert_eq!(opened.identity.host_key, Some(print_of(&server.path("host_ed25519")))),
            (Err(error), Some(word)) => assert!(error.kind == ErrorKind::DestHostKey && chain(&error).contains(word), "{}", chain(&error)),
            (other, word) => panic!("{:?} instead of {word:?}", other.err().map(|e| chain(&e))),
        }
    }
}

#[tokio::test]
async fn old_servers_need_the_legacy_switch_and_are_noted() {
    let old = "HostKeyAlgorithms ssh-rsa\nKexAlgorithms diffie-hellman-group14-sha1\nMACs hmac-sha1\nCiphers aes128-cbc\n";
    let Some(sshd) = Sshd::start(|_| {}, old).await else { return };
    let path = key(sshd.directory.path(), "id", &["-t", "ed25519"], "");
    sshd.authorize(&[&path]);
    let mut config = sshd.config("rsa");
    config.identities = vec![identity(&path)];
    let error = error_of(&config).await;
    let text = chain(&error);
    assert!(error.kind == ErrorKind::DestProtocol && text.contains("diffie-hellman-group14-sha1") && text.contains("legacy"), "{text}");
    config.algorithms = Algorithms::Legacy;
    let notes = open_session(&config).await.unwrap().identity.notes;
    for name in ["ssh-rsa", "diffie-hellman-group14-sha1", "hmac-sha1", "aes128-cbc"] {
        assert!(notes.iter().any(|note| note.ends_with(name)), "{name}: {notes:?}");
    }
}
