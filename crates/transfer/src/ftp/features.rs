//! What a server offers (FEAT, RFC 2389), and the login directory (PWD).

use model::Algorithm;

use super::reply::Reply;

/// What FEAT told. A server without FEAT offers nothing but RFC 959; SIZE and MDTM are tried everywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// MLST and MLSD.
    pub machine_lists: bool,
    pub size: bool,
    pub rest_stream: bool,
    pub utf8: bool,
    /// MFMT sets a file's time.
    pub set_time: bool,
    /// `MDTM TIME PATH` sets a file's time: vsftpd's own way, which others take for a strange name.
    pub set_time_by_query: bool,
    /// SITE CHMOD, as far as SITE HELP tells.
    pub set_mode: bool,
    /// AVBL tells free bytes.
    pub free_space: bool,
    pub digests: Vec<Digester>,
}

/// How a server is asked for a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digester {
    pub algorithm: Algorithm,
    /// `XSHA256`, or the name that `OPTS HASH` selects.
    pub command: DigestCommand,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DigestCommand {
    Own(&'static str),
    Hash(&'static str),
}

impl Features {
    pub fn read(reply: &Reply, greeting: &[u8]) -> Self {
        let mut features = Self::default();
        if !reply.is_positive() {
            return features;
        }
        let mut plain_names = Vec::new();
        // The first and the last line are words for people.
        let lines = reply.lines.get(1..reply.lines.len().saturating_sub(1)).unwrap_or_default();
        for line in lines {
            let line = String::from_utf8_lossy(line).trim().to_ascii_uppercase();
            let (name, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match name {
                "MLST" | "MLSD" => features.machine_lists = true,
                "SIZE" => features.size = true,
                "REST" => features.rest_stream = rest.trim() == "STREAM",
                "UTF8" => features.utf8 = true,
                "MFMT" => features.set_time = true,
                "AVBL" => features.free_space = true,
                "XSHA256" => features.digest(Algorithm::Sha256, DigestCommand::Own("XSHA256")),
                "XMD5" => features.digest(Algorithm::Md5, DigestCommand::Own("XMD5")),
                "HASH" => {
                    for offered in rest.split(';').map(|name| name.trim().trim_end_matches('*')) {
                        match offered {
                            "SHA-256" => features.digest(Algorithm::Sha256, DigestCommand::Hash("SHA-256")),
                            "MD5" => features.digest(Algorithm::Md5, DigestCommand::Hash("MD5")),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
            plain_names.push(line);
        }
        // vsftpd says its name in a banner that many installations replace; nobody else offers exactly this.
        let named = String::from_utf8_lossy(greeting).to_ascii_lowercase().contains("vsftpd");
        let rest: Vec<&str> = plain_names
            .iter()
            .map(String::as_str)
            .filter(|name| !matches!(*name, "AUTH TLS" | "AUTH SSL" | "PBSZ" | "PROT" | "UTF8"))
            .collect();
        let shaped = rest == ["EPRT", "EPSV", "MDTM", "PASV", "REST STREAM", "SIZE", "TVFS"];
        features.set_time_by_query = (named || shaped) && !features.set_time && plain_names.iter().any(|name| name == "MDTM");
        features
    }

    /// Takes what SITE HELP told. A server without it may have CHMOD all the same; one that refuses SITE has nothing.
    pub fn site_help(&mut self, reply: &Reply) {
        self.set_mode = match reply.code {
            200..300 => reply.words().contains("chmod"),
            500 | 501 | 502 | 504 => true,
            _ => false,
        };
    }

    /// A command of its own is preferred to HASH, whose choice is a state of the session.
    fn digest(&mut self, algorithm: Algorithm, command: DigestCommand) {
        match self.digests.iter_mut().find(|known| known.algorithm == algorithm) {
            Some(known) if matches!(known.command, DigestCommand::Hash(_)) => known.command = command,
            Some(_) => {}
            None => self.digests.push(Digester { algorithm, command }),
        }
    }

    pub fn digester(&self, algorithm: Algorithm) -> Option<&Digester> {
        self.digests.iter().find(|known| known.algorithm == algorithm)
    }
}

/// The directory of a 257 reply: in quotes, with quotes inside it doubled (RFC 959, appendix II). Only a path that
/// begins with a slash is of use: it makes names below the login directory absolute.
pub fn working_directory(reply: &Reply) -> Option<Vec<u8>> {
    if reply.code != 257 {
        return None;
    }
    let text = reply.first();
    let start = text.iter().position(|&b| b == b'"')? + 1;
    let mut path = Vec::new();
    let mut bytes = text[start..].iter().copied().peekable();
    loop {
        match bytes.next()? {
            b'"' if bytes.peek() == Some(&b'"') => path.push(bytes.next()?),
            b'"' => break,
            // A byte 255 arrives doubled, as in everything that follows TELNET (RFC 854).
            0xff if bytes.peek() == Some(&0xff) => path.push(bytes.next()?),
            byte => path.push(byte),
        }
    }
    let fine = path.first() == Some(&b'/') && path.len() <= model::MAX_PATH_BYTES && !path.iter().any(|b| matches!(b, 0 | b'\r' | b'\n'));
    fine.then_some(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reply(code: u16, lines: &[&str]) -> Reply {
        Reply { code, lines: lines.iter().map(|line| line.as_bytes().to_vec()).collect() }
    }

    #[test]
    fn reads_what_proftpd_offers() {
        let told = reply(
            211,
            &[
                "Features:",
                " MDTM",
                " MFMT",
                " TVFS",
                " MLST modify*;perm*;size*;type*;",
                " REST STREAM",
                " SIZE",
                " UTF8",
                " HASH CRC32;MD5;SHA-1*;SHA-256;SHA-512",
                " XMD5",
                "End",
            ],
        );
        let features = Features::read(&told, b"ProFTPD Server (Debian)");
        assert!(features.machine_lists && features.set_time && features.rest_stream && features.utf8 && !features.set_time_by_query);
        assert_eq!(features.digester(Algorithm::Md5).unwrap().command, DigestCommand::Own("XMD5"));
        assert_eq!(features.digester(Algorithm::Sha256).unwrap().command, DigestCommand::Hash("SHA-256"));
        assert_eq!(features.digester(Algorithm::Crc64nvme), None);
    }

    #[test]
    fn knows_vsftpd_also_behind_another_banner() {
        let told = reply(211, &["Features:", " EPRT", " EPSV", " MDTM", " PASV", " REST STREAM", " SIZE", " TVFS", " UTF8", "End"]);
        assert!(Features::read(&told, b"Welcome").set_time_by_query);
        let other = reply(211, &["Features:", " EPRT", " EPSV", " MDTM", " SIZE", "End"]);
        assert!(!Features::read(&other, b"Welcome").set_time_by_query);
        assert!(Features::read(&other, b"(vsFTPd 3.0.3)").set_time_by_query);
        assert_eq!(Features::read(&reply(500, &["what?"]), b"(vsFTPd 3.0.3)"), Features::default());
    }

    #[test]
    fn the_login_directory_is_taken_from_its_quotes() {
        assert_eq!(working_directory(&reply(257, &["\"/home/a \"\"b\"\"\" is the current directory"])).unwrap(), b"/home/a \"b\"");
        for odd in ["\"relative\" x", "no quotes", "\"/open", "", "\"\"", "\"'HLQ.'\""] {
            assert_eq!(working_directory(&reply(257, &[odd])), None, "{odd}");
        }
        assert_eq!(working_directory(&reply(550, &["\"/\""])), None);
    }

    proptest! {
        #[test]
        fn any_reply_is_answered(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let reply = Reply { code: 257, lines };
            Features::read(&reply, b"");
            working_directory(&reply);
        }
    }
}
