//! Names from rclone.conf where a URL could stand: replaced by URLs and settings before anything else looks at them.

use std::path::PathBuf;

use app::{S3Settings, ServerSettings};
use runtime::rclone::{self, Places, Remote, Unmapped};
use serde_json::json;

use crate::args::Command;
use crate::environment::Environment;
use crate::output::Screen;
use crate::settings::Request;
use crate::trouble::Trouble;

/// Replaces `NAME:PATH` everywhere. What is a URL stays as it is.
pub fn expand(request: &mut Request, environment: &Environment) -> Result<Vec<Unmapped>, Trouble> {
    let named = request.cli.global.rclone_config.as_deref().map(|path| environment.expand(path));
    let places = places(named, environment);
    let mut unmapped = Vec::new();
    let mut replace = |text: &mut String, pinned: bool| -> Result<(S3Settings, ServerSettings), Trouble> {
        let Some(Remote { url, s3, server, unmapped: some }) = rclone::expand(text, &places, pinned)? else {
            return Ok(Default::default());
        };
        *text = url;
        unmapped.extend(some);
        Ok((s3, server))
    };
    match &mut request.cli.command {
        Command::Copy(args) => {
            args.store.remote = replace(&mut args.source, false)?.0;
            args.server.remote = replace(&mut args.destination, !args.server.tls_pin.is_empty())?.1;
        }
        Command::Check(args) => {
            args.store.remote = replace(&mut args.source, false)?.0;
            args.server.remote = replace(&mut args.destination, !args.server.tls_pin.is_empty())?.1;
        }
        Command::Ls(args) => {
            (args.store.remote, args.server.remote) = replace(&mut args.url, !args.server.tls_pin.is_empty())?;
        }
        Command::Hash(args) => {
            (args.store.remote, args.server.remote) = replace(&mut args.url, !args.server.tls_pin.is_empty())?;
        }
        Command::Clean(args) => args.server.remote = replace(&mut args.url, !args.server.tls_pin.is_empty())?.1,
        _ => {}
    }
    // One name may stand on both sides.
    let mut told = Vec::new();
    unmapped.retain(|one| {
        !told.contains(one) && {
            told.push(one.clone());
            true
        }
    });
    Ok(unmapped)
}

fn places(named: Option<PathBuf>, environment: &Environment) -> Places {
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Places {
        named,
        home: environment.home.clone(),
        config_home: environment.config_home.clone(),
        working: environment.working.clone(),
        variables: variables.filter(|(name, _)| name.starts_with("RCLONE_CONFIG")).collect(),
    }
}

/// Once, and by name.
pub fn tell(unmapped: &[Unmapped], screen: &Screen) {
    for Unmapped { remote, key, why } in unmapped {
        screen.note(&format!("rclone.conf: {remote}: `{key}` {why}"));
        screen.object(&json!({"v": 1, "type": "unmapped", "remote": remote, "key": key, "why": why}));
    }
}
