//! `explain CLASS`: the page of `docs/errors`, which is built into the program.

use model::{ErrorClass, Nature, TransferId};
use serde_json::json;

use crate::environment::Environment;
use crate::output::Screen;
use crate::trouble::Trouble;
use crate::{exit, history};

macro_rules! pages {
    ($($name:literal)*) => {
        const PAGES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../../docs/errors/", $name, ".md"))),)*];
    };
}

pages! {
    "source_changed" "source_missing" "source_denied" "source_throttled" "source_truncated" "source_archived"
    "dest_unreachable" "dest_auth" "dest_host_key" "dest_tls" "dest_denied" "dest_no_space" "dest_name_invalid"
    "dest_dir_missing" "dest_exists" "dest_publish_failed" "dest_protocol" "network_stalled" "network_reset"
    "integrity_mismatch" "lease_lost" "session_expired" "window_closed" "ticket_unavailable" "ticket_invalid"
    "policy_denied" "cancelled" "internal"
}

pub async fn explain(subject: Option<&str>, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let Some(subject) = subject else {
        for class in ErrorClass::ALL {
            screen.say(&format!("{:<20} {:>3}  {:<9}  {}", class.name(), class.exit_code(), nature(*class), class.next_step()));
            screen.object(&object(*class, None));
        }
        return Ok(exit::DONE);
    };
    if let Some((class, text)) = subject.parse::<ErrorClass>().ok().zip(page(subject)) {
        for line in text.trim_end().lines() {
            screen.say(line);
        }
        screen.object(&object(class, Some(text)));
        return Ok(exit::DONE);
    }
    match subject.parse::<TransferId>() {
        Ok(id) => history::explain(&id, environment, screen).await,
        Err(_) => Err(Trouble::usage(
            format!("{subject:?} is neither an error class nor a transfer id"),
            "run `fileferry explain` for the classes, `fileferry history` for ids",
        )),
    }
}

fn page(class: &str) -> Option<&'static str> {
    PAGES.iter().find(|(name, _)| *name == class).map(|(_, text)| *text)
}

fn nature(class: ErrorClass) -> &'static str {
    match class.nature() {
        Nature::Transient => "transient",
        Nature::Permanent => "permanent",
        Nature::Held => "held",
    }
}

fn object(class: ErrorClass, page: Option<&str>) -> serde_json::Value {
    json!({"v": 1, "type": "class", "class": class, "exit_code": class.exit_code(), "nature": nature(class),
        "whose_move": class.whose_move(), "next": class.next_step(), "page": page})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_page_that_agrees_with_the_code() {
        for class in ErrorClass::ALL {
            let page = page(class.name()).unwrap_or_else(|| panic!("{class} has no page"));
            assert!(page.starts_with(&format!("# {class}\n")), "{class}: title");
            assert!(page.contains(&format!("Exit code {} · {} · ", class.exit_code(), nature(*class))), "{class}: exit code and nature");
            assert!(page.contains(&format!("· whose move: {}\n", class.whose_move())), "{class}: whose move");
            for heading in ["## What happened", "## Why", "## What to do", "## What FileFerry did"] {
                assert!(page.contains(heading), "{class}: {heading}");
            }
            let lines = page.lines().count();
            assert!((15..=40).contains(&lines), "{class} has {lines} lines");
        }
        assert_eq!(PAGES.len(), ErrorClass::ALL.len());
    }
}
