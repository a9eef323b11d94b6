//! Speaking to the service: where it is, and its refusals as troubles.

use std::path::{Path, PathBuf};

use api::{Client, ClientError, Problem};
use model::ErrorClass;
use serde_json::Value;

use crate::environment::Environment;
use crate::output::Screen;
use crate::service_args::ServiceArgs;
use crate::trouble::Trouble;

/// In the state directory, unless `--data` says otherwise.
const DEFAULT: &str = "service";
/// Nobody listens there now; somebody may soon.
const NOT_RUNNING: u8 = 5;

pub fn data(args: &ServiceArgs, environment: &Environment) -> PathBuf {
    let directory = args.data.as_deref().map_or_else(|| environment.state.join(DEFAULT), |data| environment.expand(data));
    environment.working.join(directory)
}

pub fn client(args: &ServiceArgs, environment: &Environment) -> Client {
    Client::new(&data(args, environment))
}

/// Settings as people read them, a line each; what is not set is left out.
pub fn describe(settings: &Value, screen: &Screen) {
    lines("", settings).iter().for_each(|line| screen.say(&format!("  {line}")));
}

fn lines(above: &str, value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => fields.iter().flat_map(|(name, value)| lines(&format!("{above}{name}."), value)).collect(),
        Value::Null | Value::Bool(false) => Vec::new(),
        Value::Array(items) if items.is_empty() => Vec::new(),
        value => vec![format!("{}: {}", above.trim_end_matches('.'), value.as_str().map_or_else(|| value.to_string(), str::to_owned))],
    }
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        let what = error.to_string();
        match error {
            ClientError::NotRunning { data, source } => not_running(what, &data, &source),
            ClientError::Refused(problem) => refused(*problem),
            ClientError::Broken { .. } => {
                let next = "look at what the service prints, and ask again".to_owned();
                Trouble { class: None, exit_code: NOT_RUNNING, what, whose_move: "nobody's".to_owned(), next }
            }
        }
    }
}

fn not_running(what: String, data: &Path, source: &std::io::Error) -> Trouble {
    let next = match source.kind() {
        std::io::ErrorKind::PermissionDenied => "ask whoever runs the service for a --grant".to_owned(),
        _ => format!("start it with `fileferry serve --data {}`, or name another data directory with --data", data.display()),
    };
    Trouble { class: None, exit_code: NOT_RUNNING, what, whose_move: "yours".to_owned(), next }
}

fn refused(problem: Problem) -> Trouble {
    let mut trouble = match problem.code.parse::<ErrorClass>() {
        Ok(class) => Trouble::of_class(class, problem.detail),
        Err(_) if problem.code == "denied" => {
            let mut trouble = Trouble::usage(problem.detail, "");
            trouble.exit_code = ErrorClass::PolicyDenied.exit_code();
            trouble.whose_move = ErrorClass::PolicyDenied.whose_move().to_owned();
            trouble
        }
        Err(_) => Trouble::usage(problem.detail, ""),
    };
    trouble.next = problem.next;
    trouble
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_class_and_its_next_step() {
        let trouble = |code: &str| refused(Problem::new(400, "t", code, "what", "next"));
        assert_eq!((trouble("dest_auth").exit_code, trouble("dest_auth").next.as_str()), (24, "next"));
        assert_eq!((trouble("denied").exit_code, trouble("conflict").exit_code), (7, 1));
    }
}
