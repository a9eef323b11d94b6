//! An entry point for the fuzzer in `fuzz/` and for the test that feeds the same inputs: an rclone.conf that somebody
//! else wrote. Nobody else calls it.

use std::path::Path;

use super::file::{Remotes, sections};
use super::map;

/// Every section as a remote.
pub fn configuration(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(sections) = sections(&text) else { return };
    let names: Vec<String> = sections.keys().cloned().collect();
    let remotes = Remotes::of(sections);
    assert!(remotes.names().len() <= 40 + text.len() * 12);
    for name in names {
        let Some(section) = remotes.section(&name) else { continue };
        for pinned in [false, true] {
            match map::remote(&section, "inbox/a.csv", &remotes, Path::new("/home/somebody"), pinned) {
                Ok(remote) => assert!(remote.unmapped.len() <= 2 * 500),
                Err(failure) => assert!(!failure.message.contains(char::is_control), "{failure:?}"),
            }
        }
        for key in ["pass", "key_file_pass", "key_pem", "sse_customer_key", "secret_access_key", "socks_proxy", "http_proxy"] {
            let _ = section.secret(key);
        }
    }
}
