//! References to secrets: what `--password-from` may name. A stored spec keeps the reference and never the secret.

use std::path::PathBuf;

use model::Credential;

use crate::Sealed;
use crate::rclone::SecretPlace;

/// A password longer than this is a wrong file.
const MAX_BYTES: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    Environment(String),
    File(PathBuf),
    Prompt,
    /// A value in rclone.conf.
    Rclone(SecretPlace),
    /// A value that the service keeps sealed.
    Local(String),
}

/// Names the reference, never what it led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretError {
    /// Not a reference at all. The text is not repeated: it may be the password itself.
    NotReference,
    NotYet(&'static str),
    Unset(String),
    Unreadable(PathBuf, String),
    NoTerminal,
    Rclone(String),
    /// Only the service has sealed secrets.
    NotHere(String),
    Sealed(String),
}

impl std::fmt::Display for SecretError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotReference => f.write_str("a password is given by reference: env:NAME, file:PATH or prompt"),
            Self::NotYet(scheme) => write!(f, "{scheme} is not in this version; use env:NAME, file:PATH or prompt"),
            Self::Unset(name) => write!(f, "the environment variable {name} is not set or is empty"),
            Self::Unreadable(path, why) => write!(f, "{} cannot be used as a password file: {why}", path.display()),
            Self::Rclone(why) | Self::Sealed(why) => f.write_str(why),
            Self::NotHere(name) => {
                write!(f, "local:{name} is a secret of the service, for its connectors; here write env:NAME, file:PATH or prompt")
            }
            Self::NoTerminal => f.write_str("there is no terminal to ask for a password on; use env:NAME or file:PATH"),
        }
    }
}

impl std::error::Error for SecretError {}

impl std::str::FromStr for Reference {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        match text.split_once(':') {
            None if text == "prompt" => Ok(Self::Prompt),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Environment(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            Some(("rclone", rest)) => SecretPlace::parse(rest).map(Self::Rclone).ok_or(SecretError::NotReference),
            Some(("local", name)) if !name.is_empty() => Ok(Self::Local(name.to_owned())),
            Some(("aws-sm", _)) => Err(SecretError::NotYet("aws-sm:")),
            Some(("aws-ssm", _)) => Err(SecretError::NotYet("aws-ssm:")),
            _ => Err(SecretError::NotReference),
        }
    }
}

impl Reference {
    /// Fetches the secret. `prompt` asks a person, and answers `None` where nobody can be asked; `sealed` opens what the
    /// service keeps.
    pub fn resolve(&self, prompt: impl FnOnce() -> Option<Credential>, sealed: Option<&Sealed>) -> Result<Credential, SecretError> {
        match self {
            Self::Environment(name) => match std::env::var(name) {
                Ok(text) if !text.is_empty() => Ok(Credential::new(text)),
                _ => Err(SecretError::Unset(name.clone())),
            },
            Self::File(path) => {
                let unreadable = |why: String| SecretError::Unreadable(path.clone(), why);
                let text = std::fs::read(path).map_err(|e| unreadable(e.to_string()))?;
                if text.len() > MAX_BYTES {
                    return Err(unreadable(format!("it is longer than {MAX_BYTES} bytes")));
                }
                let text = String::from_utf8(text).map_err(|_| unreadable("it is not UTF-8".to_owned()))?;
                // Editors end a file with a line break; a password does not hold one.
                let line = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
                if line.is_empty() { Err(unreadable("it is empty".to_owned())) } else { Ok(Credential::new(line)) }
            }
            Self::Rclone(place) => place.resolve().map_err(SecretError::Rclone),
            Self::Prompt => prompt().ok_or(SecretError::NoTerminal),
            Self::Local(name) => match sealed {
                Some(open) => open(name).map_err(SecretError::Sealed),
                None => Err(SecretError::NotHere(name.clone())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_given_instead_of_a_reference_is_not_repeated() {
        let error = "hunter2".parse::<Reference>().unwrap_err();
        assert!(!error.to_string().contains("hunter2") && !format!("{error:?}").contains("hunter2"));
    }

    #[test]
    fn references_of_later_versions_are_named_as_such() {
        for text in ["aws-sm:x#y", "aws-ssm:/x"] {
            assert!(text.parse::<Reference>().unwrap_err().to_string().contains("not in this version"));
        }
    }

    #[test]
    fn a_file_gives_its_text_without_the_last_line_break() {
        let path = std::env::temp_dir().join(format!("fileferry-secret-{}", std::process::id()));
        std::fs::write(&path, " p w \n").unwrap();
        let secret = Reference::File(path.clone()).resolve(|| None, None).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(secret.expose(), " p w ");
        assert!(Reference::File(path).resolve(|| None, None).is_err());
    }

    #[test]
    fn a_sealed_secret_is_opened_by_the_service_and_by_nothing_else() {
        let reference: Reference = "local:partner".parse().unwrap();
        let open = |name: &str| Ok(Credential::new(format!("value of {name}")));
        assert_eq!(reference.resolve(|| None, Some(&open)).unwrap().expose(), "value of partner");
        assert!(reference.resolve(|| None, None).unwrap_err().to_string().contains("a secret of the service"));
        assert_eq!("local:".parse::<Reference>(), Err(SecretError::NotReference));
    }

    #[test]
    fn nobody_is_asked_without_a_terminal() {
        assert_eq!(Reference::Prompt.resolve(|| None, None), Err(SecretError::NoTerminal));
    }
}
