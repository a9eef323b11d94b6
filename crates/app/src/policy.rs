//! Who may do what. Doors say who it is; every permission is decided here.

use model::{ErrorClass, Name};
use serde::{Deserialize, Serialize};
use store::{RequestRecord, Store};

use crate::connectors::{Approval, ConnectorSettings};
use crate::error::{Error, Result};
use crate::settings;
use crate::sources::SourceSettings;
use crate::spec::CopySpec;

/// What a caller is, from the least to the most. An auditor sees everything and starts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Viewer,
    Operator,
    Auditor,
    Admin,
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "viewer" => Ok(Self::Viewer),
            "operator" => Ok(Self::Operator),
            "auditor" => Ok(Self::Auditor),
            "admin" => Ok(Self::Admin),
            _ => Err(format!("{text:?} is not one of viewer, operator, auditor, admin")),
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Read transfers: one's own, or with `sees_all` everyone's.
    Look,
    /// Submit, cancel, pause, resume, retry.
    Transfer,
    /// Approve what somebody else has submitted.
    Approve,
    /// See connectors and sources.
    LookAtSettings,
    /// Change connectors, sources and secrets.
    Configure,
    /// Read the audit of everything.
    Audit,
}

impl Action {
    fn words(self) -> &'static str {
        match self {
            Self::Look => "read transfers",
            Self::Transfer => "submit or steer transfers",
            Self::Approve => "approve transfers",
            Self::LookAtSettings => "see connectors and sources",
            Self::Configure => "change connectors, sources or secrets",
            Self::Audit => "read the whole audit",
        }
    }
}

/// Whoever asks, as a door has made sure of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name under which requests are recorded.
    pub user: String,
    pub role: Role,
}

impl Principal {
    pub fn may(&self, action: Action) -> Result<()> {
        let allowed = match action {
            Action::Look => true,
            Action::Transfer | Action::Approve => matches!(self.role, Role::Operator | Role::Admin),
            Action::LookAtSettings => self.role != Role::Viewer,
            Action::Configure => self.role == Role::Admin,
            Action::Audit => self.sees_all(),
        };
        match allowed {
            true => Ok(()),
            false => Err(Error::denied(format!("{} is {} and may not {}", self.user, self.role, action.words()))
                .next("ask an administrator of this service")),
        }
    }

    /// Whether transfers of others exist for this caller.
    pub fn sees_all(&self) -> bool {
        matches!(self.role, Role::Admin | Role::Auditor)
    }

    /// An operator sees what waits for an approval too: nobody can approve what is hidden.
    pub fn sees(&self, request: &RequestRecord) -> bool {
        let waits = request.approval.policy == Approval::SecondPerson.as_str();
        self.sees_all() || request.user == self.user || (self.role == Role::Operator && waits)
    }
}

/// Whether a recorded request is still allowed, read back before a run begins: its connector is there and enabled, its
/// source still covers what it names.
pub async fn may_transfer(store: &Store, request: &RequestRecord, spec: &CopySpec) -> Result<()> {
    let denied = |text: String| Error::new(ErrorClass::PolicyDenied, text);
    let name = |text: &str| text.parse::<Name>().map_err(|e| denied(e.to_string()));
    let connector: Option<ConnectorSettings> = settings::load(store, &name(&request.connector)?).await?;
    let Some(connector) = connector.filter(|connector| connector.enabled) else {
        return Err(denied(format!("connector {} is disabled or gone", request.connector)).next("have it enabled, then retry the transfer"));
    };
    if !spec.destination.starts_with(&connector.url) {
        return Err(denied(format!("connector {} leads elsewhere now", request.connector)).next("submit the transfer again"));
    }
    let Some(source) = settings::load::<SourceSettings>(store, &name(&request.source)?).await? else {
        return Err(denied(format!("source {} is gone", request.source)));
    };
    match source.covers(spec) {
        true => Ok(()),
        false => {
            Err(denied(format!("source {} does not cover {}", request.source, spec.source)).next("ask for its prefixes to be widened"))
        }
    }
}
