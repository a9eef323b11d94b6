//! An error as a person meets it: what happened, whose move it is, the next command.

use app::event::ErrorReport;
use model::ErrorClass;
use runtime::Failure;

use crate::exit;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub class: Option<ErrorClass>,
    pub exit_code: u8,
    pub what: String,
    pub whose_move: String,
    pub next: String,
}

impl Trouble {
    /// A mistake in what was typed or configured.
    pub fn usage(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { class: None, exit_code: exit::USAGE, what: what.into(), whose_move: "yours".into(), next: next.into() }
    }

    pub fn of_class(class: ErrorClass, what: impl Into<String>) -> Self {
        Self {
            class: Some(class),
            exit_code: class.exit_code(),
            what: what.into(),
            whose_move: class.whose_move().into(),
            next: class.next_step().into(),
        }
    }

    /// Its text for a terminal; everything from a peer was or is escaped here.
    pub fn lines(&self) -> Vec<String> {
        let class = self.class.map_or(String::new(), |class| format!(" ({class})"));
        let mut lines = vec![
            format!("error: {}{class}", model::escape_name(&self.what)),
            format!("  whose move: {}", self.whose_move),
            format!("  next: {}", model::escape_name(&self.next)),
        ];
        lines.extend(self.class.map(|class| format!("  more: fileferry explain {class} (docs/errors/{class}.md)")));
        lines
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        // A mistake in the request has no class of its own; no page explains it better than the message.
        let mut trouble = match failure.exit_code {
            exit::USAGE => Self::usage(failure.message, "see `fileferry --help`"),
            _ => Self::of_class(failure.class, failure.message),
        };
        trouble.exit_code = failure.exit_code;
        if let Some(next) = failure.next {
            trouble.next = next;
        }
        trouble
    }
}

impl From<&ErrorReport> for Trouble {
    fn from(report: &ErrorReport) -> Self {
        Self {
            class: Some(report.class),
            exit_code: report.class.exit_code(),
            what: report.message.clone(),
            whose_move: report.whose_move.clone(),
            next: report.next.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_in_the_request_is_the_users_move_whatever_class_carries_it() {
        let failure = Failure { class: ErrorClass::Internal, exit_code: 1, message: "no".into(), next: Some("look".into()) };
        let trouble = Trouble::from(failure);
        assert_eq!((trouble.class, trouble.exit_code, trouble.whose_move.as_str(), trouble.next.as_str()), (None, 1, "yours", "look"));
    }

    #[test]
    fn an_error_has_three_parts_and_cannot_steer_the_terminal() {
        let lines = Trouble::of_class(ErrorClass::DestAuth, "could not log in\x1b[2J\nerror: forged").lines();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].starts_with("error: could not log in") && lines[0].ends_with("(dest_auth)"));
        assert!(lines.iter().all(|line| !line.contains('\x1b') && !line.contains('\n')));
        assert!(lines[1].contains("whose move: yours") && lines[2].contains("next: ") && lines[3].contains("docs/errors/dest_auth.md"));
    }
}
