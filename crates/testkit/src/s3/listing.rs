//! ListObjects, both versions, page by page.

use std::fmt::Write as _;
use std::ops::Bound;

use data_encoding::BASE64URL_NOPAD;

use super::bucket::BucketState;
use super::request::Query;
use super::xml::{escape, iso, url_encode};
use super::{S3Error, xml};

const MAX_KEYS: usize = 1000;

/// After this place a page begins.
enum After {
    Nothing,
    Key(String),
    /// Everything with this prefix has been shown as one common prefix.
    Prefix(String),
}

pub(crate) fn list_objects(bucket: &BucketState, name: &str, query: &Query) -> Result<String, S3Error> {
    let second = query.get("list-type") == Some("2");
    let prefix = query.get("prefix").unwrap_or_default();
    let delimiter = query.get("delimiter").filter(|delimiter| !delimiter.is_empty());
    let max_keys = match query.get("max-keys") {
        None => MAX_KEYS,
        Some(text) => text.parse::<usize>().map_err(|_| S3Error::invalid_argument())?.min(MAX_KEYS),
    };
    let url = match query.get("encoding-type") {
        None => false,
        Some("url") => true,
        Some(_) => return Err(S3Error::invalid_argument()),
    };
    let show = |text: &str| if url { url_encode(text) } else { escape(text) };

    let token = query.get("continuation-token");
    let marker = if second { query.get("start-after") } else { query.get("marker") };
    let after = match (token, marker) {
        (Some(token), _) => parse_token(token)?,
        // A marker that is a common prefix has been shown whole.
        (None, Some(marker)) if !second && delimiter.is_some_and(|delimiter| marker.ends_with(delimiter)) => {
            After::Prefix(marker.to_owned())
        }
        (None, Some(marker)) if !marker.is_empty() => After::Key(marker.to_owned()),
        _ => After::Nothing,
    };

    let page = page(bucket, prefix, delimiter, after, max_keys);
    let mut out = String::from(xml::HEAD);
    write!(out, "<ListBucketResult xmlns=\"{}\"><Name>{}</Name><Prefix>{}</Prefix>", xml::NAMESPACE, escape(name), show(prefix))
        .expect("a String takes everything");
    let mut element = |name: &str, value: String| write!(out, "<{name}>{value}</{name}>").expect("a String takes everything");
    if let Some(delimiter) = delimiter {
        element("Delimiter", show(delimiter));
    }
    element("MaxKeys", max_keys.to_string());
    if url {
        element("EncodingType", "url".to_owned());
    }
    element("IsTruncated", page.last.is_some().to_string());
    if second {
        element("KeyCount", (page.contents.len() + page.prefixes.len()).to_string());
        if let Some(token) = token {
            element("ContinuationToken", escape(token));
        }
        if let Some(start) = query.get("start-after") {
            element("StartAfter", show(start));
        }
        if let Some(last) = &page.last {
            element("NextContinuationToken", make_token(last));
        }
    } else {
        element("Marker", show(marker.unwrap_or_default()));
        if let (Some(After::Key(last) | After::Prefix(last)), Some(_)) = (&page.last, delimiter) {
            element("NextMarker", show(last));
        }
    }
    for (key, version) in &page.contents {
        let mut row = format!(
            "<Key>{}</Key><LastModified>{}</LastModified><ETag>&quot;{}&quot;</ETag>",
            show(key),
            iso(version.modified),
            escape(version.etag())
        );
        if let Some((algorithm, kind)) = version.checksum_names() {
            write!(row, "<ChecksumAlgorithm>{algorithm}</ChecksumAlgorithm><ChecksumType>{kind}</ChecksumType>")
                .expect("a String takes everything");
        }
        let size = version.content.as_ref().map_or(0, |content| content.len());
        let class = version.options.storage_class.as_deref().unwrap_or("STANDARD");
        write!(row, "<Size>{size}</Size><StorageClass>{}</StorageClass>", escape(class)).expect("a String takes everything");
        element("Contents", row);
    }
    for prefix in &page.prefixes {
        element("CommonPrefixes", format!("<Prefix>{}</Prefix>", show(prefix)));
    }
    out.push_str("</ListBucketResult>");
    Ok(out)
}

#[derive(Default)]
struct Page {
    contents: Vec<(String, std::sync::Arc<super::bucket::Version>)>,
    prefixes: Vec<String>,
    /// Where the page ends, if there is more.
    last: Option<After>,
}

fn page(bucket: &BucketState, prefix: &str, delimiter: Option<&str>, after: After, max_keys: usize) -> Page {
    let mut page = Page::default();
    if max_keys == 0 {
        return page;
    }
    let mut from = match &after {
        After::Nothing => Bound::Included(prefix.to_owned()),
        After::Key(key) if key.as_str() < prefix => Bound::Included(prefix.to_owned()),
        After::Key(key) => Bound::Excluded(key.clone()),
        After::Prefix(shown) => match successor(shown) {
            None => return page,
            Some(next) => Bound::Included(next.max(prefix.to_owned())),
        },
    };
    let mut last = After::Nothing;
    loop {
        let mut folder = None;
        for (key, version) in bucket.starting_at(as_str(&from)) {
            let Some(rest) = key.strip_prefix(prefix) else { break };
            if page.contents.len() + page.prefixes.len() == max_keys {
                page.last = Some(last);
                return page;
            }
            if let Some(at) = delimiter.and_then(|delimiter| rest.find(delimiter).map(|at| at + delimiter.len())) {
                folder = Some(key[..prefix.len() + at].to_owned());
                break;
            }
            last = After::Key(key.clone());
            page.contents.push((key, version));
        }
        // A folder is passed in one step, however many keys it holds.
        let Some(folder) = folder else { return page };
        let next = successor(&folder);
        last = After::Prefix(folder.clone());
        page.prefixes.push(folder);
        match next {
            None => return page,
            Some(next) => from = Bound::Included(next),
        }
    }
}

fn as_str(bound: &Bound<String>) -> Bound<&str> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// The first text after everything that begins with `prefix`. UTF-8 sorts as its code points do.
fn successor(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            last => char::from_u32(last as u32 + 1),
        };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

fn make_token(after: &After) -> String {
    let text = match after {
        After::Nothing => String::new(),
        After::Key(key) => format!("k{key}"),
        After::Prefix(prefix) => format!("p{prefix}"),
    };
    BASE64URL_NOPAD.encode(text.as_bytes())
}

fn parse_token(token: &str) -> Result<After, S3Error> {
    let refuse = || S3Error::new(400, "InvalidArgument", "The continuation token provided is incorrect");
    let text = String::from_utf8(BASE64URL_NOPAD.decode(token.as_bytes()).map_err(|_| refuse())?).map_err(|_| refuse())?;
    if let Some(key) = text.strip_prefix('k') {
        Ok(After::Key(key.to_owned()))
    } else if let Some(prefix) = text.strip_prefix('p') {
        Ok(After::Prefix(prefix.to_owned()))
    } else {
        Err(refuse())
    }
}
