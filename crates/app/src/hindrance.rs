//! What keeps transfers from a connector for a while: it is disabled, or its window is closed. Those that wait to begin, those
//! that are under way and those that are held for it all ask here.

use jiff::Timestamp;
use model::ErrorClass;
use store::{Store, Waiting};

use crate::connectors::ConnectorSettings;
use crate::error::{Error, Result};
use crate::settings;

/// Of every hindrance. Others are held for these too, by the wish of a person for example.
pub(crate) const CLASSES: [ErrorClass; 2] = [ErrorClass::WindowClosed, ErrorClass::PolicyDenied];
const GONE: &str = "its connector is not there any more";
const DISABLED: &str = "its connector is disabled";
/// The hindrance is gone, and the tickets do not know yet that there was one.
pub(crate) const UNTOLD: &str = "its connector may be used again; its tickets are still to be told that it waited";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hindrance {
    pub class: ErrorClass,
    pub reason: String,
    /// When it ends by itself, where that is known.
    pub ends_at: Option<Timestamp>,
}

impl Hindrance {
    /// Of the connector of this name, if there is one now.
    pub async fn at(store: &Store, connector: &str, now: Timestamp) -> Result<Option<Self>> {
        let found = match connector.parse() {
            Ok(name) => settings::load(store, &name).await?,
            Err(_) => None,
        };
        Ok(Self::of(found.as_ref(), now))
    }

    pub fn of(connector: Option<&ConnectorSettings>, now: Timestamp) -> Option<Self> {
        let denied = |reason: &str| Some(Self { class: ErrorClass::PolicyDenied, reason: reason.to_owned(), ends_at: None });
        let Some(connector) = connector else { return denied(GONE) };
        if !connector.enabled {
            return denied(DISABLED);
        }
        let window = connector.window.as_ref().filter(|window| !window.is_open(now))?;
        let ends_at = window.opens_at(now);
        let reason = ends_at.map_or("the window is closed".to_owned(), |at| format!("the window opens at {at}"));
        Some(Self { class: ErrorClass::WindowClosed, reason, ends_at })
    }

    /// Whether a held transfer waits for its connector, and for nobody else.
    pub fn is_what_holds(waiting: &Waiting) -> bool {
        match waiting.class {
            Some(ErrorClass::WindowClosed) => true,
            Some(ErrorClass::PolicyDenied) => [GONE, DISABLED, UNTOLD].contains(&waiting.reason.as_str()),
            _ => false,
        }
    }

    pub fn waiting(&self) -> Waiting {
        Waiting { class: Some(self.class), reason: self.reason.clone() }
    }

    pub fn error(&self) -> Error {
        Error::new(self.class, self.reason.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Mutation: `is_what_holds` looks at the class alone.
    #[test]
    fn only_what_a_connector_holds_goes_on_with_it() {
        let now: Timestamp = "2026-01-02T03:00:00Z".parse().unwrap();
        let closed = ConnectorSettings { window: Some("22:00-02:00".parse().unwrap()), ..ConnectorSettings::default() };
        let disabled = ConnectorSettings { enabled: false, ..ConnectorSettings::default() };
        let hindrance = Hindrance::of(Some(&closed), now).unwrap();
        assert_eq!(hindrance.reason, "the window opens at 2026-01-02T22:00:00Z");
        for hindrance in [Some(hindrance), Hindrance::of(Some(&disabled), now), Hindrance::of(None, now)] {
            let hindrance = hindrance.unwrap();
            assert!(Hindrance::is_what_holds(&hindrance.waiting()) && CLASSES.contains(&hindrance.class), "{hindrance:?}");
        }
        assert_eq!(Hindrance::of(Some(&ConnectorSettings::default()), now), None);
        for reason in ["held until somebody resumes it", "a grant was taken back"] {
            assert!(!Hindrance::is_what_holds(&Waiting { class: Some(ErrorClass::PolicyDenied), reason: reason.to_owned() }));
        }
        assert!(!Hindrance::is_what_holds(&Waiting { class: None, reason: "approval".to_owned() }));
    }
}
