//! `serve`: the service in its first form: the loops on a data directory, and a Unix socket to speak to them.

use std::sync::Arc;

use app::secrets::Vault;
use jiff::Timestamp;
use model::ErrorClass;
use runtime::{Control, NotifierKind, Place, Service, ServiceSettings, keys, sealing};
use serde_json::json;
use server::{Doors, Grants};
use store::{ServerLock, Store};

use crate::environment::Environment;
use crate::output::Screen;
use crate::service;
use crate::service_args::ServeArgs;
use crate::trouble::Trouble;
use crate::{exit, signals};

/// The state file in the data directory.
pub const RECORDS: &str = "fileferry.db";

pub async fn serve(args: &ServeArgs, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let data = service::data(&args.service, environment);
    let grants = grants(args)?;
    let control = Control::default();
    let said = screen.clone();
    signals::install(control.clone(), move |_| {
        said.note("stopping: transfers are checkpointed and go on at the next start; press again to stop at once")
    })
    .map_err(|error| failed(format!("could not listen for signals: {error}")))?;
    // Before anything is opened: two services on one directory would undo each other's work.
    let lock = ServerLock::take(&data).map_err(taken)?;
    let store = Store::open_with(data.join(RECORDS), store::Options::of_service()).await?;
    let key_file =
        args.secret_key_file.as_deref().map_or_else(|| data.join(sealing::FILE), |path| environment.working.join(environment.expand(path)));
    let vault = Arc::new(Vault::load(&store, sealing::load_or_create(&key_file)?).await?);
    let opener = vault.clone();
    let place = Place {
        state: data.clone(),
        prompt: None,
        sealed: Some(Arc::new(move |name: &str| opener.open(name))),
        ..environment.place(screen)
    };
    let receipt_key = keys::load_or_create(&data)?.fingerprint();
    let listener =
        server::listen(&data, !grants.is_empty()).map_err(|error| failed(format!("could not listen in {}: {error}", data.display())))?;

    let notifiers =
        std::iter::once(NotifierKind::Log).chain(args.notices.as_ref().map(|path| NotifierKind::File(environment.expand(path))));
    let seals = args.audit_seals.as_ref().map(|path| environment.working.join(environment.expand(path)));
    let settings = ServiceSettings { notifiers: notifiers.collect(), seals, ..ServiceSettings::default() };
    let service = Service::start(place.clone(), store.clone(), settings, control.stop.clone()).await?;
    let doors = Doors {
        store: store.clone(),
        vault,
        key_file,
        place,
        loops: Arc::new(service.clone()),
        grants,
        started_at: Timestamp::now(),
        receipt_key: receipt_key.clone(),
        rekeying: tokio::sync::Mutex::default(),
        stop: control.stop.clone(),
    };
    tell(&data, &receipt_key, screen);
    server::serve(Arc::new(doors), listener).await;
    service.join().await;
    store.close().await?;
    drop(lock);
    screen.note("stopped; unfinished transfers go on at the next start");
    Ok(exit::DONE)
}

fn tell(data: &std::path::Path, receipt_key: &str, screen: &Screen) {
    let socket = data.join(api::SOCKET);
    screen.say(&format!("serving {} as process {}; stop it with Ctrl-C", data.display(), std::process::id()));
    screen.say(&format!("receipts are signed by {receipt_key}"));
    screen.object(&json!({
        "v": 1, "type": "serving", "data": data, "socket": socket, "pid": std::process::id(), "receipt_key": receipt_key,
    }));
}

fn grants(args: &ServeArgs) -> Result<Grants, Trouble> {
    let uid = |user: &str| {
        server::uid_of(user)
            .ok_or_else(|| Trouble::usage(format!("--grant: there is no user {user} on this machine"), "write a login name or a number"))
    };
    let granted: Result<Vec<_>, Trouble> = args.grant.iter().map(|(user, role)| Ok((uid(user)?, *role))).collect();
    Ok(Grants::new(granted?))
}

/// That another service runs there is no fault of ours, and passes.
pub fn taken(error: store::Error) -> Trouble {
    let running = error.kind == store::ErrorKind::ServerRunning;
    let mut trouble = Trouble::from(error);
    if running {
        (trouble.class, trouble.exit_code, trouble.whose_move) = (None, ErrorClass::LeaseLost.exit_code(), "yours".to_owned());
    }
    trouble
}

fn failed(what: String) -> Trouble {
    Trouble::of_class(ErrorClass::Internal, what)
}

impl From<app::Error> for Trouble {
    fn from(error: app::Error) -> Self {
        runtime::Failure::from(error).into()
    }
}

impl From<store::Error> for Trouble {
    fn from(error: store::Error) -> Self {
        app::Error::from(error).into()
    }
}
