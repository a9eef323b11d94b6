//! The partner's contract on real FTP and FTPS servers: what the names are, in which order they appear, and after a kill.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::inotify;
use testkit::ftp::{FtpProgram, FtpServerOptions};

use super::contract::{checks, everything_is_as_the_partners_tools_read_it};
use super::shop::*;
use super::sites::*;
use super::*;

/// Names as they appear in a directory, in the order in which the file system saw them; temporary ones are left out.
struct Arrivals {
    watch: OwnedFd,
    names: Vec<String>,
}

impl Arrivals {
    fn of(directory: &Path) -> Self {
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, directory, inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CREATE).unwrap();
        Self { watch, names: Vec::new() }
    }

    fn so_far(&mut self) -> &[String] {
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut events = inotify::Reader::new(&self.watch, &mut buffer);
        while let Ok(event) = events.next() {
            assert!(!event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW));
            let name = event.file_name().unwrap().to_str().unwrap();
            if !name.starts_with(".ff-") {
                self.names.push(name.to_owned());
            }
        }
        &self.names
    }

    fn place(&self, name: &str) -> usize {
        self.names.iter().position(|there| there == name).unwrap_or_else(|| panic!("{name} in {:?}", self.names))
    }
}

fn strict_vsftpd() -> (FtpProgram, FtpServerOptions) {
    (FtpProgram::Vsftpd, FtpServerOptions { require_session_reuse: true, ..explicit() })
}

// SEMANTICS S36
#[tokio::test(flavor = "multi_thread")]
async fn sidecars_manifest_and_done_file_come_in_order_to_vsftpd_and_proftpd() {
    let plain = FtpServerOptions::default;
    let set_ups = [
        (FtpProgram::Vsftpd, plain()),
        strict_vsftpd(),
        (FtpProgram::Vsftpd, implicit()),
        (FtpProgram::Proftpd, plain()),
        (FtpProgram::Proftpd, explicit()),
        (FtpProgram::Proftpd, implicit()),
    ];
    for (program, options) in set_ups {
        let Some(site) = ftp(program, options).await else { return };
        let mut arrivals = Arrivals::of(&site.disk);
        everything_is_as_the_partners_tools_read_it(&site).await;
        // Names below a directory that was not there are none of these.
        let there: Vec<String> = files_below(&site.disk).into_keys().map(|name| String::from_utf8(name).unwrap()).collect();
        let here: Vec<&String> = there.iter().filter(|name| !name.contains('/')).collect();
        arrivals.so_far();
        for name in &here {
            assert_eq!(arrivals.names.iter().filter(|arrived| arrived == name).count(), 1, "{} {name}: {:?}", site.name, arrivals.names);
        }
        for file in ["a.csv", "large"] {
            for sidecar in ["sha256", "md5", "ok", "json"] {
                let sidecar = format!("{file}.{sidecar}");
                assert!(arrivals.place(file) < arrivals.place(&sidecar), "{} {sidecar}: {:?}", site.name, arrivals.names);
            }
        }
        assert!(arrivals.names.ends_with(&["MANIFEST".to_owned(), "DONE".to_owned()]), "{}: {:?}", site.name, arrivals.names);
    }
}

// SEMANTICS S37
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_a_file_and_what_goes_with_it_is_made_good_on_vsftpd_and_proftpd() {
    let set_ups = [(FtpProgram::Vsftpd, FtpServerOptions::default()), strict_vsftpd(), (FtpProgram::Proftpd, explicit())];
    for ((program, options), at) in set_ups.into_iter().flat_map(|set_up| ["b", "a.sha256", "MANIFEST"].map(|at| (set_up.clone(), at))) {
        // On a busy machine the signal may come when all is done.
        let mut tries = 0;
        loop {
            let Some(site) = ftp(program, options.clone()).await else { return };
            if killed_and_made_good(&site, at).await {
                break;
            }
            tries += 1;
            assert!(tries < 10, "{} {at}: every kill came too late", site.name);
        }
    }
}

/// Kills the program when that name appears, and runs it again. `false`: the done file was there before the signal.
async fn killed_and_made_good(site: &Site, at: &str) -> bool {
    let shop = shop().await;
    for name in ["a", "b", "c"] {
        shop.bucket.put(&format!("p/{name}"), name);
    }
    let arguments = ["copy", "s3://b/p/", &site.url, "--sidecar", "sha256", "--manifest", "MANIFEST", "--done", "DONE"];
    let mut arrivals = Arrivals::of(&site.disk);
    let mut child = site.start(&shop, &arguments);
    let begin = std::time::Instant::now();
    while !arrivals.so_far().iter().any(|name| name == at) {
        assert!(begin.elapsed().as_secs() < 30, "{at} did not come");
        std::thread::yield_now();
    }
    signal(child.id(), "KILL");
    if child.wait().unwrap().code().is_some() || arrivals.so_far().iter().any(|name| name == "DONE") {
        return false;
    }
    let ran = site.run(&shop, &arguments);
    assert_eq!(ran.code, 0, "{} {at}: {}{}", site.name, ran.out, ran.err);
    let mut once = arrivals.so_far().to_vec();
    once.sort();
    assert_eq!(once, ["DONE", "MANIFEST", "a", "a.sha256", "b", "b.sha256", "c", "c.sha256"], "{} {at}", site.name);
    assert_eq!(files_below(&site.disk).len(), once.len(), "{} {at}: nothing else is left", site.name);
    assert!(checks("sha256sum", "MANIFEST", &site.disk));
    for name in ["a", "b", "c"] {
        let sidecar = format!("{name}.sha256");
        assert!(checks("sha256sum", &sidecar, &site.disk));
        assert!(arrivals.place(name) < arrivals.place(&sidecar) && arrivals.place(&sidecar) < arrivals.place("MANIFEST"));
    }
    assert!(arrivals.place("MANIFEST") < arrivals.place("DONE"), "{:?}", arrivals.names);
    true
}
