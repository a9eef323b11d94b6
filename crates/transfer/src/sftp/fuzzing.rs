//! Entry points for the fuzzers in `fuzz/` and for the test that feeds the same inputs: bytes of a hostile server, and
//! files that somebody else wrote. Nobody else calls them.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::known_hosts::{HostLabel, KnownHosts};
use super::ssh_config::{Asked, lookup_text};
use super::wire::{Assembler, MAX_PACKET, Reply, Version};

/// A stream of packets, the same in whatever pieces it arrives, and each packet as every reply that it can be.
pub fn packets(input: &[u8]) {
    let (whole, broken) = assembled(input, input.len().max(1));
    assert_eq!((&whole, broken), (&assembled(input, 7).0, assembled(input, 7).1), "the pieces in which bytes arrive must not matter");
    for packet in whole.into_iter().chain([Bytes::copy_from_slice(input)]) {
        let length = packet.len();
        let _ = Version::decode(packet.clone());
        match Reply::decode(packet) {
            Ok((_, Reply::Status(status))) => assert!(status.message.len() <= 4096),
            Ok((_, Reply::Handle(handle))) => assert!((1..=256).contains(&handle.len())),
            Ok((_, Reply::Data(data))) => assert!(data.len() <= length),
            // The smallest entry has 12 bytes.
            Ok((_, Reply::Names(names))) => assert!(names.len() * 12 <= length),
            Ok((_, Reply::Extended(fields))) => {
                let _ = fields.clone().limits();
                let _ = fields.clone().file_system();
                assert!(fields.check_file("sha256").ok().flatten().is_none_or(|digest| digest.len() <= length));
            }
            Ok((_, Reply::Attributes(_))) | Err(_) => {}
        }
    }
}

fn assembled(input: &[u8], piece: usize) -> (Vec<Bytes>, bool) {
    let mut assembler = Assembler::default();
    let mut packets = Vec::new();
    for piece in input.chunks(piece) {
        assembler.push(Bytes::copy_from_slice(piece));
        loop {
            match assembler.next() {
                Ok(Some(packet)) => {
                    assert!(packet.len() <= MAX_PACKET);
                    packets.push(packet);
                }
                Ok(None) => break,
                Err(_) => return (packets, true),
            }
        }
    }
    (packets, false)
}

/// What a known_hosts file says of a host: by name, with a port, by address, by alias.
pub fn known_hosts(input: &[u8]) {
    let file = Arc::new(PathBuf::from("known_hosts"));
    let labels = [
        HostLabel::new("sftp.partner.example", 22),
        HostLabel::new("sftp.partner.example", 2222),
        HostLabel::new("::1", 22),
        HostLabel::alias("partner"),
    ];
    for label in labels {
        let mut known = KnownHosts::default();
        known.parse(input, file.clone(), &label);
        let lines = input.split(|b| *b == b'\n').count();
        assert!(known.entries.len() <= lines && known.entries.iter().all(|entry| (1..=lines).contains(&entry.line)));
        assert!(known.keys().count() + known.authorities().count() <= known.entries.len());
        assert!(known.notes.len() <= 100 && known.notes.iter().all(|note| !note.contains(char::is_control)));
    }
}

/// What an ssh_config says of a host. Nothing in it is ever executed.
pub fn ssh_config(input: &[u8]) {
    for (host, user) in [("partner", Some("sender")), ("sftp.partner.example", None)] {
        match lookup_text(Asked { host, user, local_user: Some("somebody") }, input) {
            Ok(settings) => {
                let all: usize = settings.identity_files.len() + settings.certificate_files.len();
                assert!(all <= 128 && settings.notes.len() <= 20);
                assert!(settings.notes.iter().all(|note| !note.contains(char::is_control)));
                assert!(settings.port != Some(0), "port 0 is none");
            }
            Err(error) => assert!(!crate::error::chain(&error).contains(char::is_control)),
        }
    }
}
