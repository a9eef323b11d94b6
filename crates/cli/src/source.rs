//! `source add|list|show|remove`: the buckets that transfers of the service may read.

use api::sources::{PutSource, Source};
use app::sources::SourceSettings;
use model::Location;
use serde_json::json;

use crate::environment::Environment;
use crate::output::Screen;
use crate::service::{client, describe};
use crate::service_args::{OneName, SourceArgs, SourceCommand};
use crate::trouble::Trouble;
use crate::{exit, settings};

pub async fn run(command: &SourceCommand, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    match command {
        SourceCommand::Add(args) => {
            let body = PutSource { settings: json!(asked(args, environment)?), version: (!args.force).then_some(0) };
            tell(&client(&args.service, environment).put_source(&args.name, &body).await?, screen);
        }
        SourceCommand::List(service) => {
            let found = client(service, environment).sources().await?.sources;
            found.iter().for_each(|source| tell(source, screen));
            if found.is_empty() {
                screen.note("there is no source yet; add one with `fileferry source add`");
            }
        }
        SourceCommand::Show(OneName { name, service }) => {
            let source = client(service, environment).source(name).await?;
            tell(&source, screen);
            describe(&source.settings, screen);
        }
        SourceCommand::Remove(OneName { name, service }) => {
            client(service, environment).remove_source(name).await?;
            screen.say(&format!("source {name} is forgotten"));
            screen.object(&json!({"v": 1, "type": "removed", "what": "source", "name": name}));
        }
    }
    Ok(exit::DONE)
}

fn asked(args: &SourceArgs, environment: &Environment) -> Result<SourceSettings, Trouble> {
    let Location::S3 { bucket, text } = settings::locate(&args.url)? else {
        return Err(Trouble::usage("a source is a bucket", "write s3://BUCKET/ or s3://BUCKET/PREFIX/"));
    };
    let spec = settings::single_spec(&args.store, &Default::default(), environment)?;
    let prefixes = Some(text).filter(|text| !text.is_empty()).into_iter().chain(args.prefix.iter().cloned()).collect();
    Ok(SourceSettings { bucket, prefixes, s3: spec.s3 })
}

fn tell(source: &Source, screen: &Screen) {
    let Source { name, version, settings, updated_by, updated_at } = source;
    let bucket = settings["bucket"].as_str().unwrap_or_default();
    let prefixes: Vec<&str> = settings["prefixes"].as_array().into_iter().flatten().filter_map(|prefix| prefix.as_str()).collect();
    let below = if prefixes.is_empty() { "everything".to_owned() } else { prefixes.join(" ") };
    screen.say(&format!("{name:<24}  s3://{bucket}/  {below}"));
    screen.object(&json!({"v": 1, "type": "source", "name": name, "version": version, "settings": settings, "updated_by": updated_by, "updated_at": updated_at}));
}
