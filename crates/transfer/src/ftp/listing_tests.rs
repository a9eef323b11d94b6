//! Lines as servers send them, lines that were bent, and entries that are rendered and read again.

use proptest::prelude::*;

use super::*;

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn at(text: &str) -> Option<Timestamp> {
    Some(text.parse().unwrap())
}

fn entry(name: &str, kind: Kind, size: Option<u64>, modified: &str) -> Option<Listed> {
    Some(Listed { name: name.into(), size, modified: at(modified), kind, current_or_parent: false })
}

#[test]
fn reads_facts_as_servers_send_them() {
    for (line, expected) in [
        // ProFTPD 1.3.8
        (
            "modify=20261120125618;perm=adfrw;size=5;type=file;unique=801UE61;UNIX.group=0;UNIX.groupname=root;UNIX.mode=0644;UNIX.owner=0;UNIX.ownername=root; a.csv",
            entry("a.csv", Kind::File, Some(5), "2026-11-20T12:56:18Z"),
        ),
        (
            "modify=20261120125618;perm=flcdmpe;type=dir;unique=801UE62;UNIX.group=0;UNIX.mode=0755;UNIX.owner=0; in",
            entry("in", Kind::Directory, None, "2026-11-20T12:56:18Z"),
        ),
        (
            "modify=20261120125618;perm=adfr;size=5;type=OS.unix=slink:/srv/my data;unique=801U1;UNIX.mode=0777; link",
            entry("link", Kind::Link, None, "2026-11-20T12:56:18Z"),
        ),
        // Pure-FTPd 1.0.50
        (
            "type=file;size=5;modify=20261120125618;UNIX.mode=0644;UNIX.uid=1000;UNIX.gid=1000;unique=801g1e; a.csv\r\n",
            entry("a.csv", Kind::File, Some(5), "2026-11-20T12:56:18Z"),
        ),
        (
            "type=dir;sizd=4096;modify=20261120125618;UNIX.mode=0755;UNIX.uid=0;UNIX.gid=0;unique=801g2; in",
            entry("in", Kind::Directory, None, "2026-11-20T12:56:18Z"),
        ),
        // pyftpdlib 2.2.0, with a name that begins with a space, and its MLST line
        (
            "modify=20261120125618;perm=r;size=1;type=file;unique=fe00g99c05a;  lead",
            entry(" lead", Kind::File, Some(1), "2026-11-20T12:56:18Z"),
        ),
        (
            "modify=20261120125618;perm=el;size=4096;type=dir;unique=fe00g99c05d; dir",
            entry("dir", Kind::Directory, None, "2026-11-20T12:56:18Z"),
        ),
        (
            " modify=20261120125618;perm=r;size=5;type=file;unique=fe00g99c059; /a.csv\r\n",
            entry("/a.csv", Kind::File, Some(5), "2026-11-20T12:56:18Z"),
        ),
        // IIS and FileZilla Server
        ("type=file;size=150;modify=20261120125618.337; a b.csv", entry("a b.csv", Kind::File, Some(150), "2026-11-20T12:56:18.337Z")),
        ("Type=dir;Modify=20261120125618.337;Perms=cplem; p; q", entry("p; q", Kind::Directory, None, "2026-11-20T12:56:18.337Z")),
        // Without the last semicolon
        ("Type=file;Size=7;Modify=20261120125618 x; y", entry("x; y", Kind::File, Some(7), "2026-11-20T12:56:18Z")),
    ] {
        assert_eq!(facts(line.as_bytes()), expected, "{line}");
    }
}

#[test]
fn the_directory_itself_and_its_parent_are_marked() {
    for line in ["type=cdir;modify=20261120125618;perm=el; /in", "type=PDIR;perm=el; ..", "type=dir; ."] {
        let listed = facts(line.as_bytes()).unwrap();
        assert!(listed.current_or_parent && listed.kind == Kind::Directory, "{line}");
    }
    assert!(super::listed(b"drwxr-xr-x   4 root root 4096 Nov 20 12:56 ..", now()).unwrap().current_or_parent);
    assert!(super::listed(b"11-20-26  12:00PM       <DIR>          .", now()).unwrap().current_or_parent);
}

#[test]
fn damaged_facts_lose_the_fact_and_text_is_no_entry() {
    let listed = facts(b"type=file;size=18446744073709551616;modify=20261341000000; a").unwrap();
    assert_eq!((listed.size, listed.modified, listed.kind), (None, None, Kind::File));
    assert_eq!(facts(b"type=file;size=-1; a").unwrap().size, None);
    assert_eq!(facts(b"size=3; a").unwrap().kind, Kind::Other);
    for line in [
        "",
        " ",
        " a",
        "  a",
        "type=file;",
        "type=file; ",
        "250 End of list",
        "-rw-r--r-- 1 a b 5 Nov 20 12:00 x",
        "type=file; a\ntype=file; b",
    ] {
        assert_eq!(facts(line.as_bytes()), None, "{line:?}");
    }
    assert_eq!(facts(&[b"type=file; ".as_slice(), &[b'x'; MAX_LINE]].concat()), None);
}

#[test]
fn reads_unix_listings_as_servers_send_them() {
    for (line, expected) in [
        // vsftpd 3.0.3: numeric owners
        ("-rw-r--r--    1 1000     1000         9000 Nov 20 11:56 a.csv", entry("a.csv", Kind::File, Some(9000), "2026-11-20T11:56:00Z")),
        ("drwxr-xr-x    2 0        0            4096 Feb 29  2020 in", entry("in", Kind::Directory, None, "2020-02-29T00:00:00Z")),
        ("lrwxrwxrwx    1 0        0               5 Nov 20 11:56 link -> a.csv", entry("link", Kind::Link, None, "2026-11-20T11:56:00Z")),
        ("-rw-r--r--    1 0        0               1 Nov 20 11:56  lead", entry(" lead", Kind::File, Some(1), "2026-11-20T11:56:00Z")),
        ("-rw-r--r--    1 0        0               1 Nov 20 11:56 a -> b ", entry("a -> b ", Kind::File, Some(1), "2026-11-20T11:56:00Z")),
        // ProFTPD, Pure-FTPd, pyftpdlib: named owners
        ("-rw-r--r--   1 root     root            5 Nov 20 11:56 a.csv\r\n", entry("a.csv", Kind::File, Some(5), "2026-11-20T11:56:00Z")),
        (
            "-rw-r--r--    1 1000       www-data     3000000000 Dec  1 08:01 big",
            entry("big", Kind::File, Some(3_000_000_000), "2025-12-01T08:01:00Z"),
        ),
        ("-rw-r--r--   1 root     root            0 Feb 29 10:00 leap", entry("leap", Kind::File, Some(0), "2024-02-29T10:00:00Z")),
        // A zone ahead of ours is not last year
        ("-rw-r--r--   1 root     root            0 Nov 20 22:00 later", entry("later", Kind::File, Some(0), "2026-11-20T22:00:00Z")),
        // FileZilla Server and IIS in its Unix style; no group; owners with spaces; ACL marks
        ("-rw-r--r-- 1 ftp ftp            150 Jul 18 10:06 a b  c.csv", entry("a b  c.csv", Kind::File, Some(150), "2026-07-18T10:06:00Z")),
        (
            "-rwxrwxrwx   1 owner    group             150 Jul 18 10:06 web.config",
            entry("web.config", Kind::File, Some(150), "2026-07-18T10:06:00Z"),
        ),
        ("-rwxrwxrwx+  1 CORP\\Domain Users 150 Jul 18  2024 x", entry("x", Kind::File, Some(150), "2024-07-18T00:00:00Z")),
        ("-rw-r--r-- 1 owner 150 Jul 18 10:06 x", entry("x", Kind::File, Some(150), "2026-07-18T10:06:00Z")),
        ("-rw-r--r-- 1 root root 150 2026-07-18 10:06 x", entry("x", Kind::File, Some(150), "2026-07-18T10:06:00Z")),
        // The length of a link tells which arrow is its own
        ("lrwxrwxrwx 1 0 0 6 Nov 20 11:56 a -> b -> target", entry("a -> b", Kind::Link, None, "2026-11-20T11:56:00Z")),
        ("crw-rw-rw- 1 root root 1,   3 Nov 20 11:56 null", entry("null", Kind::Other, None, "2026-11-20T11:56:00Z")),
    ] {
        assert_eq!(listed(line.as_bytes(), now()), expected, "{line}");
    }
}

#[test]
fn reads_dos_listings_as_iis_sends_them() {
    for (line, expected) in [
        ("07-18-24  10:06AM                  150 a b.csv", entry("a b.csv", Kind::File, Some(150), "2024-07-18T10:06:00Z")),
        ("07-18-24  12:06AM                  150  lead", entry(" lead", Kind::File, Some(150), "2024-07-18T00:06:00Z")),
        ("07-18-2024  12:06PM       <DIR>          aspnet_client", entry("aspnet_client", Kind::Directory, None, "2024-07-18T12:06:00Z")),
        ("07-18-24  10:06PM       <DIR>           lead", entry(" lead", Kind::Directory, None, "2024-07-18T22:06:00Z")),
        ("07-18-99  13:06   <DIR>  x", entry("x", Kind::Directory, None, "1999-07-18T13:06:00Z")),
        ("07-18-24  10:06PM       <JUNCTION>     y", entry("y", Kind::Link, None, "2024-07-18T22:06:00Z")),
    ] {
        assert_eq!(listed(line.as_bytes(), now()), expected, "{line}");
    }
}

#[test]
fn what_is_no_entry_is_skipped() {
    for line in [
        "total 3",
        "",
        " ",
        "226 Transfer complete",
        "-rw-r--r--",
        "-rw-r--r-- 1 root root 5 Nov 20 11:56",
        "-rw-r--r-- 1 root root 5 Nov 20 11:56 ",
        "-rw-r--r-- 1 root root 5 Nov 32 11:56 x",
        "-rw-r--r-- 1 root root 5 Nov 20 24:00 x",
        "-rw-r--r-- 1 root root five Nov 20 11:56 x",
        "13-18-24  10:06AM  150 x",
        "07-18-24  13:06AM  150 x",
        "07-18-24  10:06AM  <DIR>",
        "-rw-r--r-- 1 a b 5 Nov 20 11:56 x\n-rw-r--r-- 1 a b 5 Nov 20 11:56 y",
    ] {
        assert_eq!(listed(line.as_bytes(), now()), None, "{line:?}");
    }
}

#[test]
fn names_that_are_not_utf8_are_kept_byte_for_byte() {
    assert_eq!(facts(b"type=file; caf\xe9").unwrap().name, b"caf\xe9");
    assert_eq!(listed(b"-rw-r--r-- 1 a b 5 Nov 20 11:56 caf\xe9", now()).unwrap().name, b"caf\xe9");
}

#[test]
fn time_values_follow_the_grammar() {
    assert_eq!(time_value("20261120125618"), at("2026-11-20T12:56:18Z"));
    assert_eq!(time_value("20261120125618.5"), at("2026-11-20T12:56:18.5Z"));
    assert_eq!(time_value("20261120125618.1234567899"), at("2026-11-20T12:56:18.123456789Z"));
    assert_eq!(time_value("20161231235960"), at("2016-12-31T23:59:59Z"));
    for text in [
        "",
        "2026112012561",
        "202611201256180",
        "20261120125618.",
        "20261120125618.x",
        "2026-1120125618",
        "20260230000000",
        "２０２６１１２０１２５６",
    ] {
        assert_eq!(time_value(text), None, "{text}");
    }
}

/// What a file system can hold, and a little of what only a hostile server sends.
fn a_name() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(
        prop_oneof![4 => Just(b' '), 2 => Just(b';'), 2 => Just(b'='), 1 => Just(b'>'), 1 => Just(b'-'), 20 => any::<u8>()],
        1..40,
    )
    .prop_filter("a line break ends the entry", |name| !name.contains(&b'\n') && !name.ends_with(b"\r"))
}

proptest! {
    #[test]
    fn no_line_makes_a_parser_panic(line in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,40}") {
        let _ = facts(&line);
        let _ = listed(&line, now());
        let _ = time_value(&text);
    }

    #[test]
    fn no_bent_line_makes_a_parser_panic(at in 0usize..80, byte: u8, cut in 0usize..90, year in -9999i32..=9999) {
        let clock = jiff::civil::date(year.try_into().unwrap(), 6, 1).to_datetime(jiff::civil::Time::midnight());
        let clock = TimeZone::UTC.to_timestamp(clock).unwrap_or(Timestamp::MIN);
        for line in [
            "modify=20261120125618;perm=r;size=1;type=file;unique=fe00g99c05a;  lead",
            "lrwxrwxrwx    1 0        0               5 Feb 29 11:56 link -> a.csv",
            "07-18-24  10:06PM       <DIR>           lead",
        ] {
            let mut line = line.as_bytes().to_vec();
            if let Some(slot) = line.get_mut(at) {
                *slot = byte;
            }
            line.truncate(cut);
            let _ = facts(&line);
            let _ = listed(&line, clock);
        }
    }

    #[test]
    fn facts_of_a_rendered_entry_are_the_entry(
        name in a_name(),
        size: u64,
        seconds in 0i64..4_000_000_000,
        directory: bool,
        upper: bool,
        mlst: bool,
    ) {
        let time = Timestamp::from_second(seconds).unwrap();
        let facts_text = format!(
            "{}={};size={size};perm=r;{}={};X.y=z=;",
            if upper { "TYPE" } else { "type" },
            if directory { "Dir" } else { "file" },
            if upper { "Modify" } else { "modify" },
            time.strftime("%Y%m%d%H%M%S"),
        );
        let mut line = if mlst { b" ".to_vec() } else { Vec::new() };
        line.extend_from_slice(facts_text.as_bytes());
        line.push(b' ');
        line.extend_from_slice(&name);
        line.extend_from_slice(b"\r\n");
        let listed = facts(&line).unwrap();
        prop_assert_eq!(listed.current_or_parent, is_dots(&name));
        prop_assert_eq!(listed.name, name);
        prop_assert_eq!(listed.size, (!directory).then_some(size));
        prop_assert_eq!(listed.modified, Some(time));
        prop_assert_eq!(listed.kind, if directory { Kind::Directory } else { Kind::File });
    }

    #[test]
    fn the_name_of_a_rendered_list_line_is_the_name(name in a_name(), size: u64, year in 1970i16..2030) {
        let mut line = format!("-rw-r--r--    1 1000     1000     {size:8} Nov 20  {year} ").into_bytes();
        line.extend_from_slice(&name);
        let listed = listed(&line, now()).unwrap();
        prop_assert_eq!(listed.name, name);
        prop_assert_eq!(listed.size, Some(size));
    }
}
