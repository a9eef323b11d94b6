//! ListObjectsV2 in pages. Keys travel percent-encoded, because XML cannot hold every character that a key may have.

use async_trait::async_trait;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{EncodingType, Object as S3Object, ObjectStorageClass, OptionalObjectAttributes, RequestPayer};
use model::ObjectKey;

use super::S3Source;
use super::error::{Failure, classify};
use super::reader::{etag, timestamp};
use crate::{ErrorKind, Listing, ListingOptions, Object, Pages, Result, Subject};

/// What S3 sends at most; a longer page is not believed.
const PAGE: usize = 1000;

pub(super) struct S3Pages<'a> {
    source: &'a S3Source,
    options: ListingOptions,
    token: Option<String>,
    /// The last key or folder of the previous page: a listing must go forward.
    last: Option<String>,
    finished: bool,
}

impl<'a> S3Pages<'a> {
    pub fn new(source: &'a S3Source, options: ListingOptions) -> Self {
        Self { source, options, token: None, last: None, finished: false }
    }
}

#[async_trait]
impl Pages for S3Pages<'_> {
    async fn next(&mut self) -> Result<Option<Listing>> {
        if self.finished {
            return Ok(None);
        }
        let source = self.source;
        let subject = Subject::Object(format!("s3://{}/{}", source.config.bucket, self.options.prefix));
        let options = &self.options;
        let (token, last) = (self.token.as_deref(), self.last.as_deref());
        let page = source
            .request("list", subject, |session| async move {
                let mut request = session
                    .client
                    .list_objects_v2()
                    .bucket(&source.config.bucket)
                    .prefix(&options.prefix)
                    .encoding_type(EncodingType::Url)
                    .set_continuation_token(token.map(str::to_owned))
                    .set_delimiter(options.delimited.then(|| "/".to_owned()));
                if source.config.request_payer {
                    request = request.request_payer(RequestPayer::Requester);
                }
                // Other stores refuse headers that they do not know.
                if !session.custom_endpoint {
                    request = request.optional_object_attributes(OptionalObjectAttributes::RestoreStatus);
                }
                let answer = request.send().await.map_err(|error| classify(error, source.config.profile.as_deref()))?;
                page(answer, token, last)
            })
            .await?;
        self.token = page.token;
        self.last = page.last.or(self.last.take());
        self.finished = self.token.is_none();
        Ok(Some(page.listing))
    }
}

#[derive(Debug)]
struct Page {
    listing: Listing,
    token: Option<String>,
    last: Option<String>,
}

fn page(answer: ListObjectsV2Output, token: Option<&str>, before: Option<&str>) -> Result<Page, Failure> {
    let bad = |text: &str| Failure::new(ErrorKind::SourceTruncated, text.to_owned());
    let encoded = answer.encoding_type() == Some(&EncodingType::Url);
    if answer.contents().len() > PAGE || answer.common_prefixes().len() > PAGE {
        return Err(bad("a page of the listing is longer than the protocol allows"));
    }
    let mut listing = Listing::default();
    for object in answer.contents() {
        listing.objects.push(read_object(object, encoded)?);
    }
    for folder in answer.common_prefixes() {
        listing.folders.push(decoded(folder.prefix().unwrap_or_default(), encoded)?);
    }
    let last = listing.objects.last().map(|o| o.key.as_str()).max(listing.folders.last().map(String::as_str)).map(str::to_owned);
    let next = match answer.is_truncated() {
        Some(true) => match answer.next_continuation_token() {
            Some(next) if Some(next) != token => Some(next.to_owned()),
            _ => return Err(bad("the listing goes on, but the store does not say where")),
        },
        _ => None,
    };
    // A page that repeats the one before would never end.
    if next.is_some() && last.is_some() && last.as_deref() == before {
        return Err(bad("the listing does not move on"));
    }
    Ok(Page { listing, token: next, last })
}

fn read_object(object: &S3Object, encoded: bool) -> Result<Object, Failure> {
    let key = decoded(object.key().unwrap_or_default(), encoded)?;
    let key = ObjectKey::new(key).map_err(|e| Failure::new(ErrorKind::SourceTruncated, e))?;
    let size = object
        .size()
        .and_then(|size| u64::try_from(size).ok())
        .ok_or_else(|| Failure::new(ErrorKind::SourceTruncated, format!("the listing gives no size for {key}")))?;
    let archive = matches!(object.storage_class(), Some(ObjectStorageClass::Glacier | ObjectStorageClass::DeepArchive));
    let restored = object
        .restore_status()
        .is_some_and(|status| !status.is_restore_in_progress().unwrap_or(false) && status.restore_expiry_date().is_some());
    Ok(Object {
        key,
        size,
        etag: object.e_tag().map(etag),
        version: None,
        modified: object.last_modified().and_then(timestamp),
        archived: archive && !restored,
    })
}

/// Undoes `encoding-type=url`, where a space is `+` and a plus sign always `%2B`.
fn decoded(text: &str, encoded: bool) -> Result<String, Failure> {
    if !encoded {
        return Ok(text.to_owned());
    }
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced)
        .decode_utf8()
        .map(|text| text.into_owned())
        .map_err(|_| Failure::new(ErrorKind::SourceTruncated, format!("the listing holds a key that is not UTF-8: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_s3::types::RestoreStatus;
    use aws_smithy_types::DateTime;

    fn object(key: &str) -> S3Object {
        S3Object::builder().key(key).size(3).e_tag("\"e\"").build()
    }

    fn answer(objects: Vec<S3Object>, next: Option<&str>) -> ListObjectsV2Output {
        ListObjectsV2Output::builder()
            .set_contents(Some(objects))
            .encoding_type(EncodingType::Url)
            .is_truncated(next.is_some())
            .set_next_continuation_token(next.map(str::to_owned))
            .build()
    }

    #[test]
    fn keys_come_back_byte_for_byte() {
        for (wire, key) in
            [("a+b", "a b"), ("a%2Bb", "a+b"), ("a%0D%0Ab", "a\r\nb"), ("%F0%9F%98%80", "😀"), ("a%2Fb/c", "a/b/c"), ("%2541", "%41")]
        {
            assert_eq!(decoded(wire, true).unwrap(), key);
        }
        assert_eq!(decoded("a+b%2B", false).unwrap(), "a+b%2B");
        assert!(decoded("%ff", true).is_err());
    }

    #[test]
    fn a_listing_that_does_not_end_is_stopped() {
        assert!(page(answer(vec![object("a")], Some("t")), Some("t"), None).is_err());
        assert!(page(answer(vec![object("a")], Some("t2")), Some("t1"), Some("a")).is_err());
        let page = page(answer(vec![object("b")], Some("t2")), Some("t1"), Some("a")).unwrap();
        assert_eq!((page.token.as_deref(), page.listing.objects.len()), (Some("t2"), 1));
        let endless = ListObjectsV2Output::builder().is_truncated(true).build();
        assert!(super::page(endless, None, None).is_err());
    }

    #[test]
    fn archived_objects_are_marked_unless_restored() {
        let object = |status: Option<RestoreStatus>| {
            let object = S3Object::builder().key("a").size(1).storage_class(ObjectStorageClass::Glacier).set_restore_status(status).build();
            read_object(&object, true).unwrap().archived
        };
        assert!(object(None));
        assert!(object(Some(RestoreStatus::builder().is_restore_in_progress(true).build())));
        let ready = RestoreStatus::builder().is_restore_in_progress(false).restore_expiry_date(DateTime::from_secs(4_000_000_000)).build();
        assert!(!object(Some(ready)));
    }

    #[test]
    fn sizes_must_be_stated_and_sensible() {
        assert!(read_object(&S3Object::builder().key("a").size(-1).build(), true).is_err());
        assert!(read_object(&S3Object::builder().key("a").build(), true).is_err());
        assert!(read_object(&S3Object::builder().size(1).build(), true).is_err());
    }
}
