//! Text as S3 writes it: XML, the URL encoding of listings, dates.

use std::fmt::Write as _;

use jiff::Timestamp;

pub(crate) const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
pub(crate) const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// Control characters become references, also those XML 1.0 does not allow: S3 does the same.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => write!(out, "&#x{:x};", c as u32).expect("a String takes everything"),
            c => out.push(c),
        }
    }
    out
}

/// `encoding-type=url`: a space is a plus sign, `/` stays.
pub(crate) fn url_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' | b'/' => out.push(byte as char),
            b' ' => out.push('+'),
            _ => write!(out, "%{byte:02X}").expect("a String takes everything"),
        }
    }
    out
}

/// In a query `+` is a space; in a path it is itself.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let text = if plus_is_space { text.replace('+', " ") } else { text.to_owned() };
    percent_encoding::percent_decode_str(&text).decode_utf8().ok().map(|text| text.into_owned())
}

/// RFC 3339 with the milliseconds S3 always shows as zero.
pub(crate) fn iso(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()
}

pub(crate) fn http_date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

pub(crate) fn parse_http_date(text: &str) -> Option<Timestamp> {
    jiff::civil::DateTime::strptime("%a, %d %b %Y %H:%M:%S GMT", text).ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|at| at.timestamp())
}

/// The text of each `<name>` element, for the few requests that have an XML body.
pub(crate) fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).filter_map(|rest| rest.split_once(&close).map(|(text, _)| text)).collect()
}

pub(crate) fn unescape(text: &str) -> String {
    text.replace("&quot;", "\"")
        .replace("&#34;", "\"")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&#xD;", "\r")
        .replace("&#xA;", "\n")
        .replace("&#13;", "\r")
        .replace("&#10;", "\n")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}
