//! Settings as requests bring them: read strictly, so that a slip of the pen is an error and not a default.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

/// Reads `value` as a `T` whose every field is named in `T::default()`; what is missing keeps its default.
pub fn strict<T: Default + Serialize + DeserializeOwned>(place: &str, value: &Value) -> Result<T> {
    if value.is_null() {
        return Ok(T::default());
    }
    let Some(given) = value.as_object() else { return Err(Error::invalid(place, "must be an object")) };
    let known = serde_json::to_value(T::default()).map_err(|e| Error::invalid(place, e))?;
    let known: Vec<&str> = known.as_object().into_iter().flat_map(|object| object.keys()).map(String::as_str).collect();
    if let Some(stranger) = given.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(unknown(place, stranger, &known));
    }
    serde_json::from_value(value.clone()).map_err(|e| Error::invalid(place, e))
}

fn unknown(place: &str, given: &str, known: &[&str]) -> Error {
    let shown: String = model::escape_name(given).chars().take(80).collect();
    let error = Error::invalid(place, format!("{shown:?} is not one of its fields"));
    match model::nearest(given, known.iter().copied()) {
        Some(name) => error.next(format!("did you mean {name:?}?")),
        None => error.next(format!("its fields are {}", known.join(", "))),
    }
}

/// What may stand where a secret is referred to. The text is not repeated: it may be the secret.
pub fn reference(field: &str, text: &str) -> Result<()> {
    let named = |scheme: &str| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty());
    if ["env:", "file:", "local:"].into_iter().any(named) {
        return Ok(());
    }
    let why = match text {
        "prompt" => "nobody can be asked by a service",
        _ => "is not a reference to a secret",
    };
    Err(Error::invalid(field, why)
        .next("keep the value with `fileferry secret set NAME` and write local:NAME; env:NAME and file:PATH work too"))
}

/// The names of `local:` references.
pub fn local_names<'a>(references: impl IntoIterator<Item = &'a Option<String>>) -> impl Iterator<Item = &'a str> {
    references.into_iter().flatten().filter_map(|text| text.strip_prefix("local:"))
}

/// Whether a URL has a user name and a password before its host.
pub fn holds_password(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit_once('@').is_some_and(|(userinfo, _)| userinfo.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Options, ServerSettings};
    use serde_json::json;

    #[test]
    fn a_field_that_does_not_exist_is_refused_with_the_one_that_was_meant() {
        let error = strict::<ServerSettings>("server", &json!({"pasword_from": "env:P"})).unwrap_err();
        assert!(error.message.contains("pasword_from"), "{error}");
        assert_eq!(error.next.as_deref(), Some("did you mean \"password_from\"?"));
        let read: Options = strict("options", &json!({"retries": 7})).unwrap();
        assert_eq!((read.retries, read.transfers), (7, Options::default().transfers));
        assert!(strict::<Options>("options", &json!([1])).is_err());
    }

    #[test]
    fn a_secret_given_instead_of_its_place_is_not_repeated() {
        let error = reference("server.password_from", "hunter2").unwrap_err();
        assert!(!error.message.contains("hunter2") && error.next.unwrap().contains("secret set"));
        assert!(reference("x", "local:partner").is_ok() && reference("x", "local:").is_err() && reference("x", "prompt").is_err());
    }
}
