//! Entry points for the fuzzers in `fuzz/` and for the test that feeds the same inputs: bytes of a hostile server in,
//! promises of the parsers checked. Nobody else calls them.

use super::features::{Features, working_directory};
use super::listing;
use super::passive;
use super::reply::{MAX_LINE, MAX_REPLY, Parser, Reply};

/// Every reply in `input`, as long as it is one, with the same result in whatever pieces the bytes arrive.
pub fn reply(input: &[u8]) {
    let whole = replies(input, input.len().max(1));
    assert_eq!(whole, replies(input, 7), "the pieces in which bytes arrive must not matter");
}

fn replies(input: &[u8], piece: usize) -> (Vec<Reply>, bool) {
    let mut parser = Parser::default();
    let mut found = Vec::new();
    for piece in input.chunks(piece) {
        parser.buffer().extend_from_slice(piece);
        loop {
            match parser.next() {
                Ok(Some(reply)) => {
                    assert!((100..1000).contains(&reply.code) && !reply.lines.is_empty());
                    let bytes: usize = reply.lines.iter().map(Vec::len).sum();
                    assert!(bytes <= MAX_REPLY + MAX_LINE);
                    assert!(reply.words().len() <= 4 * MAX_REPLY && !reply.to_string().contains(char::is_control));
                    found.push(reply);
                }
                Ok(None) => break,
                Err(_) => return (found, true),
            }
        }
    }
    (found, false)
}

/// What FEAT and PWD answered.
pub fn features(input: &[u8]) {
    let reply = Reply { code: 211, lines: input.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect() };
    let features = Features::read(&reply, input);
    assert!(features.digests.len() <= 2, "one way for each digest");
    if let Some(directory) = working_directory(&Reply { code: 257, ..reply }) {
        assert!(directory.starts_with(b"/") && directory.len() <= input.len());
    }
}

/// One line of a listing, in each of its forms.
pub fn listing(input: &[u8]) {
    let now = jiff::Timestamp::from_second(1_795_000_000).expect("a time in 2026");
    for listed in [listing::facts(input), listing::listed(input, now)].into_iter().flatten() {
        assert!(!listed.name.is_empty() && !listed.name.contains(&b'\n'));
        assert!(input.windows(listed.name.len()).any(|window| window == listed.name), "names are kept byte for byte");
        assert!(listed.size.is_none() || !matches!(listed.kind, listing::Kind::Directory | listing::Kind::Link));
    }
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = listing::time_value(text);
    }
}

/// The port of a 227 or 229 reply.
pub fn passive(input: &[u8]) {
    for port in [passive::extended(input), passive::classic(input)].into_iter().flatten() {
        assert_ne!(port, 0);
    }
}
