//! What a server answers: one reply of RFC 959 section 4.2, taken from the bytes that have arrived, and its limits.

use std::fmt;

/// Longer lines and replies are no server's, but an attempt on our memory.
pub(super) const MAX_LINE: usize = 8 * 1024;
pub(super) const MAX_REPLY: usize = 64 * 1024;
pub(super) const MAX_LINES: usize = 2_000;
/// As much of a reply as is worth showing to a person.
const SHOWN: usize = 300;

/// A complete reply. Its text comes from the peer and is escaped when shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    /// Without the code where the line began with it, and without line ends.
    pub lines: Vec<Vec<u8>>,
}

impl Reply {
    /// More is to come for the same command.
    pub fn is_preliminary(&self) -> bool {
        self.code < 200
    }

    pub fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// The server waits for the second half of the command.
    pub fn is_intermediate(&self) -> bool {
        (300..400).contains(&self.code)
    }

    pub fn is_negative(&self) -> bool {
        self.code >= 400
    }

    /// The command itself is not known or not wanted here, whatever it was about.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.code, 500 | 502 | 504)
    }

    pub fn first(&self) -> &[u8] {
        self.lines.first().map_or(&[], Vec::as_slice)
    }

    /// All lines in lower case, for looking for words.
    pub fn words(&self) -> String {
        self.lines.iter().map(|line| String::from_utf8_lossy(line).to_lowercase()).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.lines.iter().map(|line| String::from_utf8_lossy(line)).collect::<Vec<_>>().join(" ");
        let short: String = text.trim().chars().take(SHOWN).collect();
        write!(f, "the server answered {}", self.code)?;
        if short.is_empty() { Ok(()) } else { write!(f, " {}", model::escape_name(&short)) }
    }
}

impl std::error::Error for Reply {}

/// Why bytes are no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a line of a reply is longer than {MAX_LINE} bytes")]
    Line,
    #[error("a reply is longer than {MAX_REPLY} bytes or {MAX_LINES} lines")]
    Reply,
    #[error("a reply begins with \"{0}\" instead of a code of three digits")]
    Code(String),
}

/// Puts replies together from bytes as they come. What it holds is bounded by `MAX_REPLY` and one read.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: Vec<u8>,
    /// Up to here `buffer` is already part of `lines`.
    done: usize,
    /// Up to here `buffer` is known to hold no line end.
    seen: usize,
    /// The reply being put together, and how many bytes it has.
    open: Option<(u16, Vec<Vec<u8>>)>,
    bytes: usize,
}

impl Parser {
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.done > 0 {
            self.buffer.drain(..self.done);
            self.seen -= self.done;
            self.done = 0;
        }
        &mut self.buffer
    }

    /// Nothing has arrived that was not handed out.
    pub fn is_empty(&self) -> bool {
        self.done == self.buffer.len() && self.open.is_none()
    }

    /// The next complete reply among what has arrived.
    pub fn next(&mut self) -> Result<Option<Reply>, Malformed> {
        while let Some(found) = self.buffer[self.seen..].iter().position(|&b| b == b'\n') {
            let end = self.seen + found;
            let mut line = &self.buffer[self.done..end];
            if line.len() > MAX_LINE {
                return Err(Malformed::Line);
            }
            self.bytes += line.len() + 1;
            while let [rest @ .., b'\r'] = line {
                line = rest;
            }
            let line = line.to_vec();
            self.done = end + 1;
            self.seen = end + 1;
            if let Some(reply) = self.take(line)? {
                return Ok(Some(reply));
            }
        }
        self.seen = self.buffer.len();
        if self.buffer.len() - self.done > MAX_LINE { Err(Malformed::Line) } else { Ok(None) }
    }

    fn take(&mut self, line: Vec<u8>) -> Result<Option<Reply>, Malformed> {
        let code = code(&line);
        let more = line.get(3) == Some(&b'-');
        let Some((open, lines)) = &mut self.open else {
            let Some(code) = code else {
                return Err(Malformed::Code(line[..line.len().min(60)].escape_ascii().to_string()));
            };
            let text = line.get(4..).unwrap_or_default().to_vec();
            if more {
                self.open = Some((code, vec![text]));
                return Ok(None);
            }
            self.bytes = 0;
            return Ok(Some(Reply { code, lines: vec![text] }));
        };
        if self.bytes > MAX_REPLY || lines.len() >= MAX_LINES {
            return Err(Malformed::Reply);
        }
        // Only the same code followed by a space (or by nothing) ends a reply; other numbers are text.
        let same = code == Some(*open);
        if same && !more {
            let (code, mut lines) = self.open.take().expect("it was matched above");
            lines.push(line.get(4..).unwrap_or_default().to_vec());
            self.bytes = 0;
            return Ok(Some(Reply { code, lines }));
        }
        lines.push(if same { line[4..].to_vec() } else { line });
        Ok(None)
    }
}

/// The code that a line begins with, if what follows can follow a code.
fn code(line: &[u8]) -> Option<u16> {
    let digits = line.get(..3)?;
    if !digits.iter().all(u8::is_ascii_digit) || !matches!(line.get(3), None | Some(b' ' | b'-')) {
        return None;
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    (100..600).contains(&code).then_some(code)
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
