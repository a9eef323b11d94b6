//! `probe` and `rehearse`: drives the steps on a server, clears up whatever happens, and keeps the profile.

use app::connectors::ConnectorSettings;
use app::letter::{Sender, letter};
use app::logins::StoreLogins;
use app::profiles;
use app::{CopySpec, Event, S3Settings, ServerSettings, TlsMinimum};
use jiff::Timestamp;
use model::{Ability, Credential, Drift, Endpoint, ErrorClass, Location, Observer, Profile, Protocol, RemotePath};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use transfer::error::chain;
use transfer::port::Logins as _;
pub use transfer::rehearse::Depth;
use transfer::rehearse::{Ground, Step};
use transfer::{Connection, ErrorKind};

use crate::open::{self, DestinationSide, Login};
use crate::scratch::{self, Rehearsals};
use crate::{Control, Failure, Place};

/// Notes of a look that nobody has read yet.
const NOTES: usize = 64;

/// What is asked of a rehearsal, besides the destination.
#[derive(Debug, Clone)]
pub struct RehearseWish {
    pub depth: Depth,
    /// A directory for the scratch files instead of the destination's.
    pub directory: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Rehearsed {
    /// All that is known now.
    pub profile: Profile,
    pub drift: Vec<Drift>,
    pub letter: String,
}

/// Tries a server out and keeps what is found. Scratch files are removed in any case; those that stay are in the profile,
/// or named in notes where there is none to keep.
pub async fn rehearse(
    place: &Place,
    url: &str,
    spec: &CopySpec,
    password: Option<Credential>,
    wish: RehearseWish,
    events: mpsc::Sender<Event>,
    control: Control,
) -> Result<Rehearsed, Failure> {
    let side = open::destination(url, &spec.server, &spec.options, password.clone(), Login::Now, place)?;
    let directory = directory(&side, wish.directory.as_deref())?;
    let note = async |text: String| {
        let _ = events.send(Event::Note(text)).await;
    };
    match wish.depth {
        Depth::Look => note(format!("looking at {} of {}; nothing is written", directory, side.endpoint)).await,
        Depth::Probe => note(format!("writing a small scratch file into {directory} of {}, and removing it again", side.endpoint)).await,
        Depth::Rehearse => {
            note(format!("writing scratch files of up to 8 MiB into {directory} of {}, and removing them again", side.endpoint)).await;
        }
    }
    let store = place.store().await?;
    let connection = first_connection(&store, &side, spec.options.retry_auth, &control).await?;
    let by = if wish.depth == Depth::Rehearse { Observer::Rehearse } else { Observer::Probe };
    let profile = Profile::new(side.key.clone(), by, Timestamp::now());
    let id = app::transfers::new_id()?;
    let writes = wish.depth != Depth::Look;
    let earlier = if writes { Rehearsals::on_record(&store, &side.key, &directory).await? } else { Rehearsals::default() };
    let lease = if writes { Some(scratch::begin(&store, &id, &side.key, &directory).await?) } else { None };
    let names = (spec.options.temp_name.clone(), id);
    let patience = spec.options.stall_timeout;
    let mut ground = Ground::new(side.connector.clone(), connection, directory.clone(), names, profile, wish.depth, patience);

    if writes {
        let removed = tokio::select! {
            biased;
            () = control.stop.cancelled() => Ok(0),
            removed = clear_earlier(&mut ground, &store, &earlier) => removed,
        };
        match removed {
            Ok(0) => {}
            Ok(count) => note(format!("removed {count} scratch file(s) that an earlier rehearsal left")).await,
            Err(failure) => tracing::debug!(error = %failure.message, "could not clear up after an earlier rehearsal"),
        }
    }
    let mut ended = None;
    for step in Step::of(wish.depth) {
        if wish.depth == Depth::Rehearse {
            note(step.words().to_owned()).await;
        }
        let outcome = tokio::select! {
            biased;
            () = control.stop.cancelled() => Err(cancelled()),
            outcome = ground.take(*step) => outcome.map_err(Failure::from),
        };
        if let Err(failure) = outcome {
            if failure.class == ErrorClass::Cancelled {
                ground.interrupted();
            }
            ended = Some(failure);
            break;
        }
        if !ground.may_go_on() {
            break;
        }
    }
    if ended.is_none() && wish.depth == Depth::Rehearse && side.endpoint.protocol.has_tls() {
        newer_tls(&mut ground, url, spec, password, place).await;
    }
    ground.clear().await;
    let found = ground.profile().clone();
    if let Some(lease) = lease.filter(|_| found.left_behind.is_empty()) {
        scratch::end(&store, &lease).await?;
    }
    if let Some(failure) = ended {
        for path in &found.left_behind {
            note(format!("left behind, because it could not be removed: {path}")).await;
        }
        return Err(failure);
    }
    let (profile, drift) = profiles::observe(&store, found).await?;
    let sender = sender(&side, &spec.server, &profile, &directory, place).await;
    let letter = letter(&profile, &side.endpoint, &sender);
    Ok(Rehearsed { profile, drift, letter })
}

/// The quick look at a connector of the service, with what there is to say besides the profile.
pub async fn try_connector(
    place: &Place,
    settings: &ConnectorSettings,
    stop: CancellationToken,
) -> Result<(Rehearsed, Vec<String>), Failure> {
    let spec = CopySpec {
        source: String::new(),
        destination: settings.url.clone(),
        s3: S3Settings::default(),
        server: settings.reached(),
        options: settings.options.clone(),
    };
    let (events, mut told) = mpsc::channel(NOTES);
    let control = Control { stop, ..Control::default() };
    let wish = RehearseWish { depth: Depth::Probe, directory: None };
    let look = rehearse(place, &settings.url, &spec, None, wish, events, control);
    tokio::pin!(look);
    let mut notes = Vec::new();
    let outcome = loop {
        tokio::select! {
            Some(event) = told.recv() => notes.extend(note_of(event)),
            outcome = &mut look => break outcome,
        }
    };
    while let Ok(event) = told.try_recv() {
        notes.extend(note_of(event));
    }
    Ok((outcome?, notes))
}

fn note_of(event: Event) -> Option<String> {
    match event {
        Event::Note(text) => Some(text),
        _ => None,
    }
}

/// Removes what killed rehearsals left; then nobody needs to know of them any more.
async fn clear_earlier(ground: &mut Ground, store: &store::Store, earlier: &Rehearsals) -> Result<u32, Failure> {
    let removed = ground.clear_earlier(&earlier.gone_ids(), &earlier.alive).await?;
    for lease in &earlier.gone {
        scratch::end(store, lease).await?;
    }
    Ok(removed)
}

fn cancelled() -> Failure {
    let next = "nothing was kept of it; run it again".to_owned();
    Failure { next: Some(next), ..Failure::of(ErrorClass::Cancelled, "stopped in the middle of a rehearsal".to_owned()) }
}

/// The directory that is tried: the one that was named, else that of the destination.
fn directory(side: &DestinationSide, named: Option<&str>) -> Result<RemotePath, Failure> {
    match named {
        None if side.directory => Ok(side.path.clone()),
        None => Ok(side.path.parent().unwrap_or_else(RemotePath::root)),
        // A whole path is read as that of an address.
        Some(path) if path.starts_with('/') => match open::parse(&format!("sftp://u@h{path}"))? {
            Location::Server { path, .. } => Ok(path),
            _ => Err(Failure::usage(format!("{path} is not a path"))),
        },
        Some(below) => {
            let above = if side.directory { side.path.clone() } else { side.path.parent().unwrap_or_else(RemotePath::root) };
            Ok(above.join(below.trim_end_matches('/')).map_err(transfer::Error::from)?)
        }
    }
}

/// Proves the login under the same rules as a copy: a refused credential is not sent twice.
async fn first_connection(
    store: &store::Store,
    side: &DestinationSide,
    retry_auth: bool,
    control: &Control,
) -> Result<Box<dyn Connection>, Failure> {
    let logins = StoreLogins::new(store.clone(), side.key.clone(), side.credential.clone(), retry_auth);
    logins.before_connect().await?;
    let outcome = tokio::select! {
        biased;
        () = control.stop.cancelled() => return Err(cancelled()),
        outcome = side.connector.connect() => outcome,
    };
    match &outcome {
        Ok(connection) => logins.after_connect(Ok(connection.identity())).await,
        Err(error) => logins.after_connect(Err(error)).await,
    }
    Ok(outcome?)
}

/// Whether the server also speaks the newer TLS: one login that accepts nothing else.
async fn newer_tls(ground: &mut Ground, url: &str, spec: &CopySpec, password: Option<Credential>, place: &Place) {
    let server = ServerSettings { tls_min: Some(TlsMinimum::V1_3), ..spec.server.clone() };
    let Ok(side) = open::destination(url, &server, &spec.options, password, Login::Now, place) else { return };
    match tokio::time::timeout(spec.options.connect_timeout, side.connector.connect()).await {
        Ok(Ok(connection)) => {
            ground.note(Ability::Tls13, true, "a login with nothing older was taken");
            let _ = tokio::time::timeout(spec.options.connect_timeout, connection.close()).await;
        }
        Ok(Err(error)) if matches!(error.kind, ErrorKind::DestTls | ErrorKind::DestProtocol) => {
            ground.note(Ability::Tls13, false, &chain(&error));
        }
        // Refused for another reason, such as a limit of logins.
        _ => {}
    }
}

async fn sender(side: &DestinationSide, server: &ServerSettings, profile: &Profile, directory: &RemotePath, place: &Place) -> Sender {
    let ssh = side.endpoint.protocol == Protocol::Sftp;
    let named = server.identities.clone();
    let defaults = ["id_ed25519", "id_ecdsa", "id_rsa"].map(|name| place.home.join(".ssh").join(name)).to_vec();
    let public_keys = match ssh {
        true => tokio::task::spawn_blocking(move || {
            let paths = if named.is_empty() { defaults } else { named };
            paths.iter().filter_map(|path| transfer::sftp::public_key_line(path)).collect()
        })
        .await
        .unwrap_or_default(),
        false => Vec::new(),
    };
    Sender {
        public_keys,
        addresses: profile.local_address.iter().cloned().collect(),
        proof: match side.endpoint.protocol {
            Protocol::Sftp => Some("host key"),
            protocol if protocol.has_tls() => Some("certificate"),
            _ => None,
        },
        directory: directory.to_string(),
    }
}

/// What is known of a destination, without asking it.
pub async fn show_profile(place: &Place, url: &str, spec: &CopySpec) -> Result<Option<Profile>, Failure> {
    let (_, key) = named(place, url, spec)?;
    Ok(profiles::load(&place.store().await?, &key).await?)
}

/// `false`: nothing was known.
pub async fn forget_profile(place: &Place, url: &str, spec: &CopySpec) -> Result<bool, Failure> {
    let (_, key) = named(place, url, spec)?;
    Ok(profiles::forget(&place.store().await?, &key).await?)
}

fn named(place: &Place, url: &str, spec: &CopySpec) -> Result<(Endpoint, String), Failure> {
    let side = open::destination(url, &spec.server, &spec.options, None, Login::Never, place)?;
    Ok((side.endpoint, side.key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_files_go_where_they_were_told_to() {
        let connector = std::sync::Arc::new(transfer::local::LocalConnector::with_home(None));
        let side = |path: &str, is_directory| DestinationSide {
            endpoint: transfer::Connector::endpoint(&*connector).clone(),
            connector: connector.clone(),
            key: String::new(),
            path: RemotePath::root().join(path).unwrap(),
            directory: is_directory,
            credential: String::new(),
        };
        let found = |side: &DestinationSide, named| directory(side, named).unwrap().as_str().to_owned();
        assert_eq!(found(&side("in", true), None), "/in");
        assert_eq!(found(&side("in/a.csv", false), None), "/in");
        assert_eq!(found(&side("in", true), Some("scratch/")), "/in/scratch");
        assert_eq!(found(&side("in", true), Some("/tmp/x/")), "/tmp/x");
        assert_eq!(found(&side("in", true), Some("/~/x")), "/~/x");
        assert!(directory(&side("in", true), Some("../x")).is_err());
    }
}
