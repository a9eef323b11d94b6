//! `secret set|list|remove|rekey`: values go in by stdin or by a prompt, never by the command line, and never come out.

use std::io::Read as _;

use model::Name;
use serde_json::json;
use zeroize::Zeroizing;

use crate::environment::Environment;
use crate::exit;
use crate::output::Screen;
use crate::service::client;
use crate::service_args::{OneName, SecretCommand};
use crate::trouble::Trouble;

/// Keys and passphrases are shorter.
const LONGEST: u64 = 16 << 10;

pub async fn run(command: &SecretCommand, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    match command {
        SecretCommand::Set(args) => set(args, environment, screen).await?,
        SecretCommand::List(service) => {
            for secret in client(service, environment).secrets().await?.secrets {
                screen.say(&format!("{:<24}  {:.0}  {}", secret.name, secret.updated_at, secret.updated_by));
                screen.object(&json!({"v": 1, "type": "secret", "name": secret.name, "updated_at": secret.updated_at, "updated_by": secret.updated_by}));
            }
        }
        SecretCommand::Remove(OneName { name, service }) => {
            client(service, environment).remove_secret(name).await?;
            screen.say(&format!("secret {name} is forgotten"));
            screen.object(&json!({"v": 1, "type": "removed", "what": "secret", "name": name}));
        }
        SecretCommand::Rekey(service) => {
            let rekeyed = client(service, environment).rekey().await?;
            screen.say(&format!("{} secrets are sealed with a new key", rekeyed.secrets));
            screen.object(&json!({"v": 1, "type": "rekeyed", "secrets": rekeyed.secrets}));
        }
    }
    Ok(exit::DONE)
}

async fn set(OneName { name, service }: &OneName, environment: &Environment, screen: &Screen) -> Result<(), Trouble> {
    let value = value(name, environment, screen)?;
    client(service, environment).put_secret(name, &value).await?;
    screen.say(&format!("secret {name} is kept; refer to it as local:{name}"));
    screen.object(&json!({"v": 1, "type": "secret", "name": name, "reference": format!("local:{name}")}));
    Ok(())
}

/// All of stdin without its last line break, or what a person types.
fn value(name: &Name, environment: &Environment, screen: &Screen) -> Result<Zeroizing<String>, Trouble> {
    let unusable = |why: String| {
        Trouble::usage(
            format!("the value of secret {name} cannot be used: {why}"),
            "pipe it in: `printf %s \"$VALUE\" | fileferry secret set NAME`",
        )
    };
    let mut text = Zeroizing::new(String::new());
    if environment.can_ask {
        let ask = || rpassword::prompt_password(format!("Value of secret {name}: "));
        *text = screen.suspended(ask).map_err(|e| unusable(e.to_string()))?;
    } else {
        let read = std::io::stdin().take(LONGEST + 1).read_to_string(&mut text);
        read.map_err(|e| unusable(e.to_string()))?;
        if text.len() as u64 > LONGEST {
            return Err(unusable(format!("it is longer than {LONGEST} bytes")));
        }
        // Editors and echo end a text with a line break; a password does not hold one, and a key does not mind.
        for end in ['\n', '\r'] {
            if text.ends_with(end) {
                text.pop();
            }
        }
    }
    match text.is_empty() {
        true => Err(unusable("it is empty".to_owned())),
        false => Ok(text),
    }
}
