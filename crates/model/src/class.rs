//! Error classes: the stable names under which every failure is reported, and what follows from each.
//! One page `docs/errors/CLASS.md` exists for every class; a test holds that.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What happens next on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// Tried again with backoff, up to three times without progress.
    Transient,
    /// Trying again cannot help.
    Permanent,
    /// Everything is kept and waits for a person.
    Held,
}

macro_rules! classes {
    ($($variant:ident $name:literal $nature:ident $exit:literal $whose:literal $next:literal;)*) => {
        /// A stable error class; see `docs/errors`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ErrorClass { $(#[serde(rename = $name)] $variant,)* }

        impl ErrorClass {
            pub const ALL: &'static [ErrorClass] = &[$(ErrorClass::$variant,)*];

            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub fn nature(self) -> Nature {
                match self { $(Self::$variant => Nature::$nature,)* }
            }

            /// The exit code of the command line when this class ended a one-file run.
            pub fn exit_code(self) -> u8 {
                match self { $(Self::$variant => $exit,)* }
            }

            /// Whose move it is.
            pub fn whose_move(self) -> &'static str {
                match self { $(Self::$variant => $whose,)* }
            }

            /// What to do next, in one sentence.
            pub fn next_step(self) -> &'static str {
                match self { $(Self::$variant => $next,)* }
            }
        }
    };
}

classes! {
    SourceChanged "source_changed" Permanent 25 "yours" "run the copy again: it will send the version that is there now";
    SourceMissing "source_missing" Permanent 4 "yours" "check the bucket and key with `fileferry ls`";
    SourceDenied "source_denied" Permanent 7 "the bucket owner's" "ask for s3:GetObject and s3:ListBucket on this prefix, or choose another profile";
    SourceThrottled "source_throttled" Transient 5 "nobody's" "run `fileferry resume` in a while; lower --transfers if it happens often";
    SourceTruncated "source_truncated" Transient 5 "nobody's" "run `fileferry resume`; if it repeats, the store cuts its answers short";
    SourceArchived "source_archived" Permanent 7 "the bucket owner's" "restore the object from its archive class first";
    DestUnreachable "dest_unreachable" Transient 5 "the partner's, or your network's" "check host, port and firewall, then run `fileferry resume`";
    DestAuth "dest_auth" Permanent 24 "yours" "check user name, key and password; after changing one run the command again, or add --retry-auth";
    DestHostKey "dest_host_key" Permanent 23 "yours and the partner's" "ask the partner for the fingerprint by another way, then add it to known_hosts or give --host-key";
    DestTls "dest_tls" Permanent 23 "yours and the partner's" "compare the fingerprint with what the partner announced; trust their authority with --ca-file, or exactly this certificate with --tls-pin";
    DestDenied "dest_denied" Permanent 7 "the partner's" "ask for write permission in that directory";
    DestNoSpace "dest_no_space" Held 26 "the partner's" "free space or raise the quota there, then run `fileferry resume`";
    DestNameInvalid "dest_name_invalid" Permanent 28 "yours" "choose another name with --name, or leave the file out with --exclude";
    DestDirMissing "dest_dir_missing" Permanent 3 "yours" "check the path, or create the directory with --mkdir";
    DestExists "dest_exists" Permanent 27 "yours" "decide with --if-exists skip, update or replace";
    DestPublishFailed "dest_publish_failed" Transient 5 "the partner's" "run `fileferry resume`: the verified file is kept and only the rename is tried again";
    DestProtocol "dest_protocol" Transient 5 "the partner's" "run with -v and show the partner what their server answered";
    NetworkStalled "network_stalled" Transient 5 "nobody's" "run `fileferry resume`; raise --stall-timeout on very slow lines";
    NetworkReset "network_reset" Transient 5 "nobody's" "run `fileferry resume`";
    IntegrityMismatch "integrity_mismatch" Held 22 "the partner's" "the file was not published; compare both digests on the receipt with the partner";
    LeaseLost "lease_lost" Transient 5 "nobody's" "another process has taken this transfer over; follow it with --attach";
    SessionExpired "session_expired" Permanent 20 "yours" "start the transfer again within the session";
    WindowClosed "window_closed" Permanent 21 "the approver's" "wait for the change window, or have it moved";
    TicketUnavailable "ticket_unavailable" Held 20 "ServiceNow's" "nothing: the transfer goes on when the ticket system answers";
    TicketInvalid "ticket_invalid" Permanent 20 "the approver's" "check the tickets' state and owner";
    PolicyDenied "policy_denied" Permanent 7 "your administrator's" "ask for a grant that covers this source and connector";
    Cancelled "cancelled" Permanent 130 "yours" "run `fileferry resume` to go on";
    Internal "internal" Held 2 "ours" "keep the output of -v and report it";
}

impl ErrorClass {
    pub fn is_retryable(self) -> bool {
        self.nature() == Nature::Transient
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an error class; `fileferry explain` lists them")]
pub struct ParseClassError(String);

impl FromStr for ErrorClass {
    type Err = ParseClassError;

    fn from_str(text: &str) -> Result<Self, ParseClassError> {
        Self::ALL.iter().copied().find(|c| c.name() == text).ok_or_else(|| ParseClassError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_reads_back_from_its_name() {
        for class in ErrorClass::ALL {
            assert_eq!(class.name().parse(), Ok(*class));
        }
    }

    #[test]
    fn authentication_and_trust_are_never_retried() {
        assert!(!ErrorClass::DestAuth.is_retryable());
        assert!(!ErrorClass::DestHostKey.is_retryable());
    }
}
