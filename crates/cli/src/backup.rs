//! `backup` and `restore`: the records of a service as one file, made while it runs, put back while it does not.

use std::path::Path;

use serde_json::json;
use store::Store;

use crate::args::{BackupArgs, RestoreArgs};
use crate::environment::Environment;
use crate::exit;
use crate::output::Screen;
use crate::serve::RECORDS;
use crate::service::data;
use crate::trouble::Trouble;

pub async fn backup(args: &BackupArgs, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let records = data(&args.service, environment).join(RECORDS);
    if !records.is_file() {
        return Err(Trouble::usage(
            format!("there is nothing to back up: {} is not there", records.display()),
            "name the service's directory with --data",
        ));
    }
    let file = environment.working.join(environment.expand(&args.file));
    let store = Store::open(records).await?;
    store.backup(&file).await?;
    store.close().await?;
    screen.say(&format!("the records are in {}; keep the file of the secrets' key apart from it", file.display()));
    screen.object(&json!({"v": 1, "type": "backup", "file": file, "bytes": size(&file)}));
    Ok(exit::DONE)
}

pub async fn restore(args: &RestoreArgs, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let file = environment.working.join(environment.expand(&args.file));
    let records = data(&args.service, environment).join(RECORDS);
    let aside = Store::restore(&file, &records, args.force).await.map_err(|error| {
        let taken = error.kind == store::ErrorKind::Conflict;
        let mut trouble = crate::serve::taken(error);
        if taken {
            trouble = Trouble::usage(trouble.what, "look at what is there, and replace it with --force: the old file is moved aside");
        }
        trouble
    })?;
    screen.say(&format!("{} is in place", records.display()));
    if let Some(aside) = &aside {
        screen.say(&format!("what was there is now {}", aside.display()));
    }
    screen.object(&json!({"v": 1, "type": "restored", "file": records, "aside": aside}));
    Ok(exit::DONE)
}

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |metadata| metadata.len())
}
