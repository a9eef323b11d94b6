//! `connector …`: the partners' servers that transfers of the service may go to.

use std::path::PathBuf;

use api::connectors::{Connector, PutConnector};
use app::connectors::{Approval, ConnectorSettings, WhenUnreachable};
use serde_json::json;

use crate::environment::Environment;
use crate::exit;
use crate::output::Screen;
use crate::service::{client, describe};
use crate::service_args::{ConnectorArgs, ConnectorCommand, OneName};
use crate::settings::{self, Request};
use crate::trouble::Trouble;

pub async fn run(command: &ConnectorCommand, request: &Request, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    match command {
        ConnectorCommand::Add(args) => {
            let body = PutConnector { settings: json!(asked(args, request, environment)?), version: (!args.force).then_some(0) };
            let connector = client(&args.service, environment).put_connector(&args.connector, &body).await?;
            tell(&connector, screen);
            screen.note(&format!("try it with `fileferry connector test {}`", args.connector));
        }
        ConnectorCommand::List(service) => {
            let found = client(service, environment).connectors().await?.connectors;
            found.iter().for_each(|connector| tell(connector, screen));
            if found.is_empty() {
                screen.note("there is no connector yet; add one with `fileferry connector add`");
            }
        }
        ConnectorCommand::Show(OneName { name, service }) => {
            let connector = client(service, environment).connector(name).await?;
            tell(&connector, screen);
            describe(&connector.settings, screen);
        }
        ConnectorCommand::Test(OneName { name, service }) => {
            let tested = client(service, environment).test_connector(name).await?;
            tested.notes.iter().for_each(|note| screen.note(note));
            tested.verdict.iter().for_each(|line| screen.say(line));
            screen.object(&json!({"v": 1, "type": "tested", "name": name, "verdict": tested.verdict, "profile": tested.profile}));
        }
        ConnectorCommand::Trust { name, fingerprint, service } => {
            tell(&client(service, environment).trust(name, fingerprint).await?, screen);
        }
        ConnectorCommand::Enable(OneName { name, service }) => tell(&client(service, environment).set_enabled(name, true).await?, screen),
        ConnectorCommand::Disable(OneName { name, service }) => tell(&client(service, environment).set_enabled(name, false).await?, screen),
        ConnectorCommand::Remove(OneName { name, service }) => {
            client(service, environment).remove_connector(name).await?;
            screen.say(&format!("connector {name} is forgotten"));
            screen.object(&json!({"v": 1, "type": "removed", "what": "connector", "name": name}));
        }
    }
    Ok(exit::DONE)
}

fn asked(args: &ConnectorArgs, request: &Request, environment: &Environment) -> Result<ConnectorSettings, Trouble> {
    let spec = settings::connector_spec(args, request.choices, request.thresholds, environment)?;
    let mut server = spec.server;
    // The service may work in another directory.
    let anchored = |path: &mut PathBuf| *path = environment.working.join(&*path);
    server.identities.iter_mut().chain(&mut server.known_hosts).chain(&mut server.ca_files).for_each(anchored);
    server.client_cert.iter_mut().chain(&mut server.client_key).for_each(anchored);
    Ok(ConnectorSettings {
        url: args.url.clone(),
        server,
        options: spec.options,
        limit: args.at_once,
        approval: match args.approval.as_str() {
            "second-person" => Approval::SecondPerson,
            "change" => Approval::Change,
            _ => Approval::Auto,
        },
        max_age: args.ticket_age,
        when_tickets_unreachable: if args.without_tickets == "hold" { WhenUnreachable::Hold } else { WhenUnreachable::Go },
        group: args.group.clone(),
        window: args.window.clone(),
        enabled: true,
    })
}

fn tell(connector: &Connector, screen: &Screen) {
    let Connector { name, version, settings, updated_by, updated_at } = connector;
    let text = |field: &str| settings[field].as_str().unwrap_or_default();
    let disabled = if settings["enabled"] == json!(false) { "  disabled" } else { "" };
    let window = settings["window"].as_str().map_or(String::new(), |window| format!("  {window}"));
    screen.say(&format!("{name:<24}  {}  {}{window}{disabled}", text("url"), text("approval")));
    screen.object(&json!({"v": 1, "type": "connector", "name": name, "version": version, "settings": settings, "updated_by": updated_by, "updated_at": updated_at}));
}
