//! How a queue is named: by its URL, its ARN, or its name where the region is known.

use std::fmt;

const LONGEST_URL: usize = 1_024;
/// Amazon SQS Developer Guide, "Quotas related to queues".
const LONGEST_NAME: usize = 80;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueAddress {
    Url {
        url: String,
        /// Named by an address of AWS itself.
        region: Option<String>,
        /// Scheme, host and port.
        endpoint: String,
    },
    Name {
        name: String,
        region: Option<String>,
        account: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} names no queue: give its URL (https://sqs.REGION.amazonaws.com/ACCOUNT/NAME), its ARN or its name")]
pub struct AddressError(String);

impl AddressError {
    fn of(text: &str) -> Self {
        // Before an @ of a URL stands a password.
        let shown =
            if text.contains('@') { "what has an @ in it".to_owned() } else { format!("{:?}", text.chars().take(200).collect::<String>()) };
        Self(shown)
    }
}

impl QueueAddress {
    pub(super) fn region(&self) -> Option<&str> {
        match self {
            Self::Url { region, .. } | Self::Name { region, .. } => region.as_deref(),
        }
    }

    pub(super) fn endpoint(&self) -> Option<&str> {
        match self {
            Self::Url { endpoint, .. } => Some(endpoint),
            Self::Name { .. } => None,
        }
    }

    fn of_url(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (host, path) = rest.split_once('/')?;
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#' | '@' | '\\');
        if !matches!(scheme, "https" | "http") || host.is_empty() || path.is_empty() || text.len() > LONGEST_URL || text.contains(odd) {
            return None;
        }
        let region = region_of(host).filter(|_| scheme == "https").map(str::to_owned);
        Some(Self::Url { url: text.to_owned(), region, endpoint: format!("{scheme}://{host}") })
    }

    fn of_arn(text: &str) -> Option<Self> {
        let mut parts = text.splitn(6, ':');
        let (arn, partition, service) = (parts.next()?, parts.next()?, parts.next()?);
        let (region, account, name) = (parts.next()?, parts.next()?, parts.next()?);
        let digits = !account.is_empty() && account.len() <= 20 && account.bytes().all(|b| b.is_ascii_digit());
        (arn == "arn" && partition.starts_with("aws") && service == "sqs" && is_region(region) && digits && is_name(name))
            .then(|| Self::Name { name: name.to_owned(), region: Some(region.to_owned()), account: Some(account.to_owned()) })
    }
}

impl std::str::FromStr for QueueAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let by_name = || is_name(text).then(|| Self::Name { name: text.to_owned(), region: None, account: None });
        Self::of_url(text).or_else(|| Self::of_arn(text)).or_else(by_name).ok_or_else(|| AddressError::of(text))
    }
}

impl fmt::Display for QueueAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { url, .. } => write!(f, "the queue {url}"),
            Self::Name { name, .. } => write!(f, "the queue {name}"),
        }
    }
}

/// `sqs.REGION.amazonaws.com`, or the same in China.
fn region_of(host: &str) -> Option<&str> {
    let rest = host.strip_prefix("sqs.")?;
    let region = rest.strip_suffix(".amazonaws.com").or_else(|| rest.strip_suffix(".amazonaws.com.cn"))?;
    is_region(region).then_some(region)
}

/// Region names become part of a host name.
fn is_region(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_name(text: &str) -> bool {
    let plain = text.strip_suffix(".fifo").unwrap_or(text);
    (1..=LONGEST_NAME).contains(&text.len())
        && !plain.is_empty()
        && plain.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<QueueAddress, AddressError> {
        text.parse()
    }

    #[test]
    fn a_url_names_its_region_or_its_endpoint() {
        let aws = read("https://sqs.eu-west-1.amazonaws.com/123456789012/outbound").unwrap();
        assert_eq!((aws.region(), aws.endpoint()), (Some("eu-west-1"), Some("https://sqs.eu-west-1.amazonaws.com")));
        assert_eq!(read("https://sqs.cn-north-1.amazonaws.com.cn/1/q").unwrap().region(), Some("cn-north-1"));
        for (own, endpoint) in [
            ("http://127.0.0.1:5000/123456789012/q", "http://127.0.0.1:5000"),
            ("https://vpce-1-a.sqs.eu-west-1.vpce.amazonaws.com/1/q", "https://vpce-1-a.sqs.eu-west-1.vpce.amazonaws.com"),
            ("http://sqs.eu-west-1.amazonaws.com/1/q", "http://sqs.eu-west-1.amazonaws.com"),
            ("https://sqs.eu-west-1.amazonaws.com.evil.example/1/q", "https://sqs.eu-west-1.amazonaws.com.evil.example"),
        ] {
            let address = read(own).unwrap();
            assert_eq!((address.region(), address.endpoint()), (None, Some(endpoint)));
        }
    }

    #[test]
    fn an_arn_or_a_name_is_asked_for() {
        let named = |name: &str, region: Option<&str>, account: Option<&str>| QueueAddress::Name {
            name: name.into(),
            region: region.map(Into::into),
            account: account.map(Into::into),
        };
        assert_eq!(read("arn:aws:sqs:us-east-1:123456789012:q").unwrap(), named("q", Some("us-east-1"), Some("123456789012")));
        assert_eq!(read("outbound_1.fifo").unwrap(), named("outbound_1.fifo", None, None));
        let long = "x".repeat(81);
        for bad in
            ["", "a b", ".fifo", "q/", "https://", "https://host", "https://host/", "ftp://h/q", "arn:aws:s3:::b", "https://u@h/q", &long]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refused_address_is_shown_unless_it_may_hold_a_password() {
        assert!(read("a b").unwrap_err().to_string().starts_with("\"a b\" names no queue"));
        let hidden = read("https://KEY:SECRET@host/q").unwrap_err();
        assert!(!format!("{hidden} {hidden:?}").contains("SECRET"), "{hidden}");
    }
}
