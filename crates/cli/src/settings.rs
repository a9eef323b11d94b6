//! From the command line, the environment and config.yaml to a `CopySpec`.

use std::ffi::OsString;
use std::path::PathBuf;

use app::spec::Mkdir;
use app::{CopySpec, Options, S3Settings, ServerSettings, TlsMinimum};
use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches as _};
use model::contract::{MAX_CONTROL_BYTES, expand};
use model::{After, ByteCount, Credential, Location, NameTemplate, Protocol, ProxyAddress, Thresholds, Verify};
use runtime::Place;
use runtime::secret::{Reference, SecretError};

use crate::args::{self, Cli, Command, ContractArgs, CopyArgs, DeliveryArgs, NameArgs, SelectArgs, ServerArgs, SpeedArgs, StoreArgs};
use crate::config::{self, Config, ConfigError, Setting};
use crate::environment::Environment;
use crate::service_args::{ConnectorArgs, ConnectorCommand};
use crate::trouble::Trouble;

/// Smaller ranges cost more in requests than they save in memory.
const MIN_CHUNK: ByteCount = ByteCount::kib(64);

/// A parsed command line, with what only its sources tell.
#[derive(Debug)]
pub struct Request {
    pub cli: Cli,
    pub choices: Choices,
    pub thresholds: Thresholds,
    /// Flags of `PROTOCOL_FLAGS` that stood on the command line. In a variable or the file they serve every server they fit.
    typed: Vec<&'static str>,
}

/// Pairs of flags that contradict each other: the better source wins, on the command line the last one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Choices {
    pub preserve_time: Option<bool>,
    pub mkdir: Option<bool>,
    pub flatten: bool,
}

#[derive(Debug)]
pub enum ParseError {
    /// Also `--help` and `--version`, which are no errors.
    Clap(clap::Error),
    Config(ConfigError),
}

pub fn parse(
    arguments: &[OsString],
    load: impl FnOnce(Option<&std::path::Path>) -> Result<Config, ConfigError>,
) -> Result<Request, ParseError> {
    let command = args::command();
    let first = command.clone().try_get_matches_from(arguments).map_err(ParseError::Clap)?;
    let named = first.get_one::<std::path::PathBuf>("config");
    let config = load(named.map(|path| path.as_path())).map_err(ParseError::Config)?;
    check(&command, &config).map_err(ParseError::Config)?;
    let matches = with_defaults(command, &config.settings).try_get_matches_from(arguments).map_err(ParseError::Clap)?;
    let cli = Cli::from_arg_matches(&matches).map_err(ParseError::Clap)?;
    let request = Request { cli, choices: choices(&matches), thresholds: config.thresholds, typed: typed(&matches) };
    Ok(request)
}

/// Every value of the file must be one that its flag takes, also when this command does not use it.
fn check(command: &clap::Command, config: &Config) -> Result<(), ConfigError> {
    let copy = command.find_subcommand("copy").expect("the copy command has every setting").clone();
    let copy = copy.mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
    for setting in &config.settings {
        let is_flag = copy.get_arguments().any(|arg| arg.get_long() == Some(setting.long) && !arg.get_action().takes_values());
        let fail = |message: String| ConfigError { file: config.path.clone().unwrap_or_default(), line: Some(setting.line), message };
        if is_flag {
            match setting.values.as_slice() {
                [text] if truth(text).is_some() => continue,
                _ => return Err(fail(format!("{} is true or false", setting.key))),
            }
        }
        if setting.long.ends_with("-from")
            && let Some(Err(error)) = setting.values.first().map(|text| text.parse::<Reference>())
        {
            return Err(fail(format!("{}: {error}", setting.key)));
        }
        if setting.long == "proxy"
            && let Some(Err(trouble)) = setting.values.first().map(|text| proxy(text))
        {
            return Err(fail(format!("{}: {}", setting.key, trouble.what)));
        }
        let flags = setting.values.iter().map(|value| format!("--{}={value}", setting.long));
        let line = ["copy", "source", "destination"].into_iter().map(str::to_owned).chain(flags);
        if let Err(error) = copy.clone().try_get_matches_from(line) {
            let text = error.render().to_string();
            let reason = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            return Err(fail(format!("{}: {reason}", setting.key)));
        }
    }
    Ok(())
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// Their settings are the service's: whoever adds a connector does not mean what one's own copies are set to.
const OF_THE_SERVICE: &[&str] = &["serve", "transfer", "connector", "source", "secret", "backup", "restore"];

/// clap asks the command line first, then the environment, then defaults: settings become defaults.
fn with_defaults(command: clap::Command, settings: &[Setting]) -> clap::Command {
    let command = command.mut_subcommands(|sub| match OF_THE_SERVICE.contains(&sub.get_name()) {
        true => sub,
        false => with_defaults(sub, settings),
    });
    command.mut_args(|arg| {
        let Some(long) = arg.get_long() else { return arg };
        let is_flag = !arg.get_action().takes_values();
        // `mkdir: false` is what `--no-mkdir` says.
        let negated = long.strip_prefix("no-").and_then(|positive| settings.iter().find(|s| s.long == positive));
        if let Some(setting) = negated.filter(|_| is_flag && matches!(long, "no-mkdir" | "no-preserve-time")) {
            return if truth(&setting.values[0]) == Some(false) { arg.default_value("true") } else { arg };
        }
        match settings.iter().find(|s| s.long == long) {
            Some(setting) if is_flag => arg.default_value(if truth(&setting.values[0]) == Some(true) { "true" } else { "false" }),
            Some(setting) => arg.default_values(setting.values.clone()),
            None => arg,
        }
    })
}

/// The arguments of the command that was typed, as `connector add` is inside `connector`.
fn innermost(matches: &ArgMatches) -> Option<&ArgMatches> {
    let (_, mut matches) = matches.subcommand()?;
    while let Some((_, below)) = matches.subcommand() {
        matches = below;
    }
    Some(matches)
}

fn choices(matches: &ArgMatches) -> Choices {
    let Some(matches) = innermost(matches) else { return Choices::default() };
    let known = |id: &str| matches.try_contains_id(id).unwrap_or(false);
    // By source, and on the command line by place. clap's own overriding knows only the command line, and calls a flag
    // there in conflict with its opposite in a variable.
    let rank = |id: &str| match matches.value_source(id) {
        Some(ValueSource::CommandLine) => (3, matches.indices_of(id).and_then(|indices| indices.max()).unwrap_or(0)),
        Some(ValueSource::EnvVariable) => (2, 0),
        Some(_) => (1, 0),
        None => (0, 0),
    };
    let flag = |id: &str| if known(id) && matches.get_flag(id) { rank(id) } else { (0, 0) };
    let pair = |yes: &str, no: &str| match flag(yes).cmp(&flag(no)) {
        std::cmp::Ordering::Greater => Some(true),
        std::cmp::Ordering::Less => Some(false),
        std::cmp::Ordering::Equal => None,
    };
    let named = if known("name") { rank("name") } else { (0, 0) };
    Choices { preserve_time: pair("preserve_time", "no_preserve_time"), mkdir: pair("mkdir", "no_mkdir"), flatten: flag("flatten") > named }
}

/// Whether a flag says something to a protocol.
type Fits = fn(Protocol) -> bool;

/// Flags that mean something to some protocols only, and to which.
const PROTOCOL_FLAGS: &[(&str, Fits, &str)] = &[
    ("identity", is_ssh, "sftp://"),
    ("known-hosts", is_ssh, "sftp://"),
    ("host-key", is_ssh, "sftp://"),
    ("ssh-algorithms", is_ssh, "sftp://"),
    ("ca-file", Protocol::has_tls, "ftpes:// and ftps://"),
    ("tls-pin", Protocol::has_tls, "ftpes:// and ftps://"),
    ("tls-min", Protocol::has_tls, "ftpes:// and ftps://"),
    ("client-cert", Protocol::has_tls, "ftpes:// and ftps://"),
    ("client-key", Protocol::has_tls, "ftpes:// and ftps://"),
    ("active", Protocol::is_ftp, "ftp://, ftpes:// and ftps://"),
    ("jump", is_ssh, "sftp://"),
];

fn is_ssh(protocol: Protocol) -> bool {
    protocol == Protocol::Sftp
}

fn typed(matches: &ArgMatches) -> Vec<&'static str> {
    let Some(matches) = innermost(matches) else { return Vec::new() };
    let is_typed = |long: &str| {
        let id = long.replace('-', "_");
        matches.try_contains_id(&id).unwrap_or(false) && matches.value_source(&id) == Some(ValueSource::CommandLine)
    };
    PROTOCOL_FLAGS.iter().map(|(long, _, _)| *long).filter(|long| is_typed(long)).collect()
}

impl Request {
    /// A flag that cannot have an effect is a mistake that is better found now: whoever typed a pin believes that it is checked.
    pub fn fits(&self) -> Result<(), Trouble> {
        let (url, server) = match &self.cli.command {
            Command::Copy(args) => (&args.destination, &args.server),
            Command::Watch(args) => (&args.copy.destination, &args.copy.server),
            Command::Check(args) => (&args.destination, &args.server),
            Command::Ls(args) => (&args.url, &args.server),
            Command::Hash(args) => (&args.url, &args.server),
            Command::Clean(args) => (&args.url, &args.server),
            Command::Rehearse(args) | Command::Probe(args) => (&args.url, &args.server),
            Command::Connector { command: ConnectorCommand::Add(args) } => (&args.url, &args.server),
            _ => return Ok(()),
        };
        if server.client_key.is_some() && server.client_cert.is_none() {
            return Err(Trouble::usage("--client-key is given without --client-cert", "name the certificate that belongs to the key"));
        }
        let Location::Server { endpoint, .. } = locate(url)? else { return Ok(()) };
        let protocol = endpoint.protocol;
        if protocol.is_ftp() && server.active && server.proxy.as_deref().is_some_and(|text| !matches!(text.trim(), "" | "off" | "none")) {
            return Err(Trouble::usage(
                "--active and --proxy do not go together: in active mode the server connects to us, and a proxy only connects outwards",
                "leave one of them out; `--proxy off` switches off one of the configuration",
            ));
        }
        match PROTOCOL_FLAGS.iter().find(|(long, fits, _)| self.typed.contains(long) && !fits(protocol)) {
            Some((long, _, others)) => Err(Trouble::usage(
                format!("--{long} does not fit {protocol}://: it is for {others}"),
                "leave the flag out, or correct the address",
            )),
            None => Ok(()),
        }
    }
}

pub fn s3(args: &StoreArgs) -> S3Settings {
    let remote = &args.remote;
    let text = |flag: &Option<String>, remote: &Option<String>| flag.clone().or_else(|| remote.clone());
    // Whoever names a profile, or nobody, does not mean the key of the name.
    let own_login = args.profile.is_some() || args.no_sign_request;
    S3Settings {
        endpoint: text(&args.s3_endpoint, &remote.endpoint),
        region: text(&args.s3_region, &remote.region),
        profile: if args.no_sign_request { args.profile.clone() } else { text(&args.profile, &remote.profile) },
        path_style: args.path_style.or(remote.path_style),
        request_payer: args.request_payer || remote.request_payer,
        no_sign_request: args.no_sign_request || (remote.no_sign_request && !own_login),
        sse_customer_key_from: text(&args.sse_customer_key_from, &remote.sse_customer_key_from),
        access_key_from: remote.access_key_from.clone().filter(|_| !own_login),
    }
}

/// The proxy and the password in its URL. What was given is not repeated: a password may be in it.
fn proxy(text: &str) -> Result<(Option<ProxyAddress>, Option<Credential>), Trouble> {
    if matches!(text.trim(), "" | "off" | "none") {
        return Ok((None, None));
    }
    match ProxyAddress::parse(text) {
        Ok((address, password)) => Ok((Some(address), password)),
        Err(error) => Err(Trouble::usage(format!("--proxy: {error}"), "see docs/guide/roads-and-logins.md")),
    }
}

pub fn server(args: &ServerArgs, environment: &Environment) -> Result<ServerSettings, Trouble> {
    let remote = &args.remote;
    let (proxy, proxy_password) = match args.proxy.as_deref() {
        Some(text) => proxy(text)?,
        None => (remote.proxy.clone(), None),
    };
    if let Some(Err(error)) = args.proxy_password_from.as_ref().map(|text| text.parse::<Reference>()) {
        return Err(Trouble::usage(format!("--proxy-password-from: {error}"), "write env:NAME or file:PATH"));
    }
    if let Some(Err(why)) = args.jump.as_deref().map(transfer::sftp::check_jump) {
        return Err(Trouble::usage(format!("--jump: {why}"), "see docs/guide/roads-and-logins.md"));
    }
    let remote_proxy_password = remote.proxy_password_from.clone().filter(|_| args.proxy.is_none());
    let files = |paths: &[PathBuf]| -> Vec<PathBuf> { paths.iter().map(|path| environment.expand(path)).collect() };
    // Keys and trust are taken as a whole: from the flags, or from the name.
    let own_keys = !args.identity.is_empty();
    let own_trust = !args.known_hosts.is_empty() || !args.host_key.is_empty();
    Ok(ServerSettings {
        password_from: args.password_from.clone().or_else(|| remote.password_from.clone()),
        bind: args.bind,
        proxy,
        proxy_password_from: args.proxy_password_from.clone().or(remote_proxy_password),
        proxy_password,
        allow_private: args.allow_private,
        jump: args.jump.clone(),
        identities: if own_keys { files(&args.identity) } else { remote.identities.clone() },
        key_from: remote.key_from.clone().filter(|_| !own_keys),
        key_passphrase_from: remote.key_passphrase_from.clone().filter(|_| !own_keys),
        known_hosts: if own_trust { files(&args.known_hosts) } else { remote.known_hosts.clone() },
        host_keys: if own_trust { args.host_key.clone() } else { remote.host_keys.clone() },
        legacy_algorithms: args.ssh_algorithms.as_deref().map_or(remote.legacy_algorithms, |set| set == "legacy"),
        ca_files: files(&args.ca_file),
        tls_pins: args.tls_pin.clone(),
        tls_min: args.tls_min.as_deref().map(|version| if version == "1.3" { TlsMinimum::V1_3 } else { TlsMinimum::V1_2 }),
        client_cert: args.client_cert.as_ref().map(|path| environment.expand(path)),
        client_key: args.client_key.as_ref().map(|path| environment.expand(path)),
        active: args.active,
    })
}

fn server_options(options: &mut Options, args: &ServerArgs) {
    options.connect_timeout = args.connect_timeout.unwrap_or(options.connect_timeout);
    options.stall_timeout = args.stall_timeout.unwrap_or(options.stall_timeout);
    options.retry_auth = args.retry_auth;
}

fn select_options(options: &mut Options, args: &SelectArgs) {
    options.include.clone_from(&args.include);
    options.exclude.clone_from(&args.exclude);
    options.files_from.clone_from(&args.files_from);
    (options.min_size, options.max_size) = (args.min_size, args.max_size);
    (options.min_age, options.max_age) = (args.min_age, args.max_age);
}

fn name_options(options: &mut Options, args: &NameArgs, choices: Choices) {
    options.name = match &args.name {
        _ if choices.flatten => NameTemplate::flatten(),
        Some(template) => template.clone(),
        None => NameTemplate::keep(),
    };
}

fn delivery_options(options: &mut Options, args: &DeliveryArgs, choices: Choices) {
    options.verify = args.verify.unwrap_or(options.verify);
    options.digests.clone_from(&args.digest);
    options.if_exists = args.if_exists.unwrap_or(options.if_exists);
    options.resend = args.resend;
    options.publish = args.publish.unwrap_or(options.publish);
    options.temp_name = args.temp_name.clone().unwrap_or_default();
    options.preserve_time = choices.preserve_time.unwrap_or(true);
    options.chmod = args.chmod;
    options.mkdir = match choices.mkdir {
        Some(true) => Mkdir::All,
        Some(false) => Mkdir::Never,
        None => Mkdir::Below,
    };
    options.fail_if_empty = args.fail_if_empty;
}

/// What was agreed with the partner; texts of control files are read now, so that a resume needs no file.
fn contract_options(spec: &mut CopySpec, args: &ContractArgs, environment: &Environment) -> Result<(), Trouble> {
    let options = &mut spec.options;
    for sidecar in &args.sidecar {
        if options.sidecars.iter().any(|known| known.name == sidecar.name) {
            return Err(Trouble::usage(format!("two sidecars would be called {}", sidecar.name), "give one of them another name"));
        }
        let mut sidecar = sidecar.clone();
        if let Some(file) = &sidecar.file {
            sidecar.text = Some(control_text(&environment.expand(std::path::Path::new(file)))?);
        }
        options.sidecars.push(sidecar);
    }
    (options.manifest, options.done) = (args.manifest.clone(), args.done.clone());
    options.order = args.order;
    options.after = args.after.clone().unwrap_or_default();
    options.after_grade = args.after_grade;
    if options.after == After::Keep {
        return Ok(());
    }
    if !spec.source.starts_with("s3://") {
        return Err(Trouble::usage("--after is for originals in a bucket; files of this machine stay", "leave it out, or name s3://…"));
    }
    let least = options.removal_grade();
    if let Verify::AtLeast(grade) = options.verify
        && !grade.satisfies(least)
    {
        return Err(Trouble::usage(
            format!("--verify {grade} is less than the proof {least} with which an original may go"),
            "raise --verify, or say with --after-grade that less is enough",
        ));
    }
    if spec.s3.sse_customer_key_from.is_some() && matches!(options.after, After::Archive { .. }) {
        return Err(Trouble::usage("objects under a customer's key are not archived", "use --after delete or --after keep"));
    }
    Ok(())
}

/// The text of a control file. A placeholder that nobody knows is better found now.
fn control_text(path: &std::path::Path) -> Result<String, Trouble> {
    let wrong = |why: String| Trouble::usage(format!("--sidecar ctl: {}: {why}", path.display()), "name a small text file");
    let size = std::fs::metadata(path).map_err(|e| wrong(e.to_string()))?.len();
    if size > MAX_CONTROL_BYTES as u64 {
        return Err(wrong(format!("is longer than {MAX_CONTROL_BYTES} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    let known = ["name", "size", "key", "version", "sha256", "md5", "crc64nvme"];
    expand(&text, jiff::Timestamp::UNIX_EPOCH, |word| known.contains(&word).then(String::new)).map_err(wrong)?;
    Ok(text)
}

fn speed_options(options: &mut Options, args: &SpeedArgs) {
    options.connections = args.connections;
    options.transfers = args.transfers.unwrap_or(options.transfers);
    options.lanes = args.lanes.unwrap_or(options.lanes);
    options.chunk_size = args.chunk_size.unwrap_or(options.chunk_size);
    options.buffer = args.buffer.unwrap_or(options.buffer);
    options.bwlimit = args.bwlimit.clone().unwrap_or_default();
    options.retries = args.retries.unwrap_or(options.retries);
    options.max_duration = args.max_duration;
}

/// The whole of `copy`; the destination's password is taken out of the spec and returned beside it.
pub fn copy_spec(
    args: &CopyArgs,
    choices: Choices,
    thresholds: Thresholds,
    environment: &Environment,
) -> Result<(CopySpec, Option<Credential>), Trouble> {
    let (mut spec, password) = transfer_spec(&args.source, &args.destination, &args.store, &args.server, environment)?;
    let groups = (&args.select, &args.name, &args.delivery, &args.speed, &args.contract);
    whole_options(&mut spec, groups, choices, thresholds, environment)?;
    Ok((spec, password))
}

/// The settings of a connector: everything that a copy to it would have.
pub fn connector_spec(
    args: &ConnectorArgs,
    choices: Choices,
    thresholds: Thresholds,
    environment: &Environment,
) -> Result<CopySpec, Trouble> {
    let mut spec = single_spec(&StoreArgs::default(), &args.server, environment)?;
    // What goes away after a delivery is checked as for any source in a bucket.
    spec.source = "s3://bucket/".to_owned();
    whole_options(&mut spec, (&args.select, &args.naming, &args.delivery, &args.speed, &args.contract), choices, thresholds, environment)?;
    Ok(spec)
}

type Groups<'a> = (&'a SelectArgs, &'a NameArgs, &'a DeliveryArgs, &'a SpeedArgs, &'a ContractArgs);

fn whole_options(
    spec: &mut CopySpec,
    (select, naming, delivery, speed, contract): Groups<'_>,
    choices: Choices,
    thresholds: Thresholds,
    environment: &Environment,
) -> Result<(), Trouble> {
    select_options(&mut spec.options, select);
    name_options(&mut spec.options, naming, choices);
    delivery_options(&mut spec.options, delivery, choices);
    speed_options(&mut spec.options, speed);
    contract_options(spec, contract, environment)?;
    spec.options.thresholds = thresholds;
    if let (Some(min), Some(max)) = (spec.options.min_size, spec.options.max_size)
        && min > max
    {
        return Err(Trouble::usage("--min-size is above --max-size, so nothing can match", "correct one of them"));
    }
    if spec.options.chunk_size < MIN_CHUNK {
        let what = format!("--chunk-size is {}; it is at least {MIN_CHUNK}", spec.options.chunk_size);
        return Err(Trouble::usage(what, "leave it out, or make it larger"));
    }
    Ok(())
}

pub fn check_spec(args: &args::CheckArgs, choices: Choices, environment: &Environment) -> Result<(CopySpec, Option<Credential>), Trouble> {
    let (mut spec, password) = transfer_spec(&args.source, &args.destination, &args.store, &args.server, environment)?;
    select_options(&mut spec.options, &args.select);
    name_options(&mut spec.options, &args.name, choices);
    Ok((spec, password))
}

fn transfer_spec(
    source: &str,
    destination: &str,
    store: &StoreArgs,
    server: &ServerArgs,
    environment: &Environment,
) -> Result<(CopySpec, Option<Credential>), Trouble> {
    let from = locate(source)?;
    let to = locate(destination)?;
    if let Location::Server { .. } = from {
        return Err(Trouble::usage(
            format!("{from} cannot be a source: this version reads from s3:// and file://"),
            "swap the two addresses, if that is what you meant",
        ));
    }
    if let Location::S3 { .. } = to {
        return Err(Trouble::usage(
            format!("{to} cannot be a destination: this version writes to sftp://, ftpes://, ftps://, ftp:// and file://"),
            "swap the two addresses, if that is what you meant",
        ));
    }
    if from.is_directory() && !to.is_directory() {
        return Err(Trouble::usage(
            format!("{from} stands for many files and {to} names one file"),
            "end the destination in / to name a directory",
        ));
    }
    let mut spec = single_spec(store, server, environment)?;
    spec.source = source.to_owned();
    spec.destination = to.to_string();
    let password = match to {
        Location::Server { password, .. } => password,
        _ => None,
    };
    Ok((spec, password))
}

/// Settings for the commands that name one URL.
pub fn single_spec(store: &StoreArgs, server: &ServerArgs, environment: &Environment) -> Result<CopySpec, Trouble> {
    if let Some(Err(error)) = store.sse_customer_key_from.as_ref().map(|text| text.parse::<Reference>()) {
        return Err(Trouble::usage(format!("--sse-customer-key-from: {error}"), "write env:NAME or file:PATH"));
    }
    if store.s3_endpoint.as_deref().is_some_and(config::holds_password) {
        return Err(Trouble::usage(
            "--s3-endpoint holds a password, which would be kept with the transfer",
            "leave it out; credentials come from the AWS profile or variables",
        ));
    }
    let mut options = Options::default();
    server_options(&mut options, server);
    let server = self::server(server, environment)?;
    Ok(CopySpec { source: String::new(), destination: String::new(), s3: s3(store), server, options })
}

pub fn locate(url: &str) -> Result<Location, Trouble> {
    Location::parse(url).map_err(|e| Trouble::usage(e.to_string(), "see `fileferry copy --help` for how addresses are written"))
}

/// The password of this login: from where `--password-from` says, or from the URL. `None` leaves the other ways open.
pub fn credential(
    in_url: Option<Credential>,
    reference: Option<&str>,
    destination: &str,
    place: &Place,
) -> Result<Option<Credential>, Trouble> {
    let resolve = |text: &str| -> Result<Credential, SecretError> {
        let question = format!("password for {}", destination.split('/').take(3).collect::<Vec<_>>().join("/"));
        text.parse::<Reference>()?.resolve(|| place.prompt.as_ref().and_then(|ask| ask(&question)), place.sealed.as_deref())
    };
    match (in_url, reference) {
        (_, Some(text)) => resolve(text).map(Some).map_err(|e| match e {
            SecretError::NoTerminal => Trouble::of_class(model::ErrorClass::DestAuth, e.to_string()),
            _ => Trouble::usage(format!("--password-from: {e}"), "set the variable or file it names, or name another"),
        }),
        (in_url, None) => Ok(in_url),
    }
}

/// A usage message may repeat an argument; one that is a URL with a password must not show it.
pub fn without_passwords(message: &str, arguments: &[OsString]) -> String {
    let mut message = message.to_owned();
    for argument in arguments.iter().filter_map(|argument| argument.to_str()) {
        let Some((_, rest)) = argument.split_once("://") else { continue };
        // Up to the last @, wherever it is: also what is no URL yet may hold a password.
        let userinfo = rest.rsplit_once('@').map(|(userinfo, _)| userinfo);
        if let Some((_, password)) = userinfo.and_then(|userinfo| userinfo.split_once(':')).filter(|(_, p)| !p.is_empty()) {
            message = message.replace(&format!(":{password}@"), ":***@");
        }
    }
    message
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
