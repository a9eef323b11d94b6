//! The command line as clap sees it. Every long flag gets its `FILEFERRY_*` variable in one place, `command()`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, ValueParser};
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};
use model::{Algorithm, ByteCount, IfExists, NameTemplate, Publish, Rate, TempName, TransferId, Verify, parse_duration};

#[derive(Debug, Parser)]
#[command(name = "fileferry", version, max_term_width = 110, arg_required_else_help = true)]
#[command(about = "Delivers objects from S3 to SFTP servers: resumable, and proven with a signed receipt")]
#[command(after_help = "Every flag is also a variable: --if-exists is FILEFERRY_IF_EXISTS. `fileferry explain CLASS` explains an error.")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: Global,
}

#[derive(Debug, Args)]
pub struct Global {
    /// Configuration file instead of ./fileferry.yaml and the usual places
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// One JSON object per line on stdout, everything else on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// More detail on stderr: -v information, -vv debugging, -vvv everything
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Nothing but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Copy an object, a prefix or a local file or directory to a server
    Copy(Box<CopyArgs>),
    /// List a bucket, a prefix or a directory
    Ls(LsArgs),
    /// Compare source and destination; changes nothing
    Check(Box<CheckArgs>),
    /// Print digests of what a URL names
    Hash(HashArgs),
    /// Go on with interrupted copies, or give them up
    Resume(ResumeArgs),
    /// Remove temporary files that interrupted copies of ours left at a destination
    Clean(CleanArgs),
    /// Show what was copied from this machine
    History(HistoryArgs),
    /// Check receipts; show, rotate and trust signing keys
    Receipt {
        #[command(subcommand)]
        command: ReceiptCommand,
    },
    /// Explain an error class or a transfer; without an argument, list the classes
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
pub struct CopyArgs {
    /// s3://BUCKET/KEY, s3://BUCKET/PREFIX/ or file:///PATH
    pub source: String,
    /// sftp://[USER[:PASS]@]HOST[:PORT]/PATH or file:///PATH; a path ending in / is a directory, /~/ the login directory
    pub destination: String,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub select: SelectArgs,
    #[command(flatten)]
    pub name: NameArgs,
    #[command(flatten)]
    pub delivery: DeliveryArgs,
    #[command(flatten)]
    pub speed: SpeedArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    /// Say what would be sent where, and send nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Follow the same copy when another process is already running it
    #[arg(long)]
    pub attach: bool,
}

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "S3")]
pub struct StoreArgs {
    /// Address of an S3-compatible store
    #[arg(long, value_name = "URL")]
    pub s3_endpoint: Option<String>,
    #[arg(long, value_name = "REGION", help = "Region of the bucket")]
    pub s3_region: Option<String>,
    #[arg(long, value_name = "NAME", help = "AWS profile to take credentials from")]
    pub profile: Option<String>,
    /// Put the bucket into the path of the URL; the default where an endpoint is given
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub path_style: Option<bool>,
    /// Agree to pay for requests to a requester-pays bucket
    #[arg(long)]
    pub request_payer: bool,
    /// Read a public bucket without credentials
    #[arg(long)]
    pub no_sign_request: bool,
    /// Where the base64 SSE-C key is: env:NAME or file:PATH
    #[arg(long, value_name = "REF")]
    pub sse_customer_key_from: Option<String>,
}

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// Private key file; may be repeated
    #[arg(long, value_name = "FILE")]
    pub identity: Vec<PathBuf>,
    /// Where the password is: env:NAME, file:PATH or prompt
    #[arg(long, value_name = "REF")]
    pub password_from: Option<String>,
    /// File of known host keys instead of ~/.ssh/known_hosts; may be repeated
    #[arg(long, value_name = "FILE")]
    pub known_hosts: Vec<PathBuf>,
    /// Fingerprint of the server's host key; may be repeated
    #[arg(long, value_name = "SHA256:…", value_parser = fingerprint)]
    pub host_key: Vec<String>,
    /// Also offer algorithms that are no longer considered safe
    #[arg(long, value_name = "SET", value_parser = ["modern", "legacy"])]
    pub ssh_algorithms: Option<String>,
    #[arg(long, value_name = "ADDRESS", help = "Local address to connect from")]
    pub bind: Option<IpAddr>,
    /// Longest wait for a connection and login [default: 20s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub connect_timeout: Option<Duration>,
    /// Longest time in which nothing moves [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub stall_timeout: Option<Duration>,
    /// Try to log in although the last login was refused
    #[arg(long)]
    pub retry_auth: bool,
}

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Selection")]
pub struct SelectArgs {
    /// Only keys that match; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Not the keys that match; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// List of keys, one per line, or JSON lines with versionId; - reads stdin
    #[arg(long, value_name = "FILE")]
    pub files_from: Option<String>,
    #[arg(long, value_name = "SIZE", help = "Only files of at least this size")]
    pub min_size: Option<ByteCount>,
    #[arg(long, value_name = "SIZE", help = "Only files of at most this size")]
    pub max_size: Option<ByteCount>,
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help = "Only files at least this old")]
    pub min_age: Option<Duration>,
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help = "Only files at most this old")]
    pub max_age: Option<Duration>,
}

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Names")]
pub struct NameArgs {
    /// Name below the destination: {key} {dir} {base} {date:%Y%m%d} {version} [default: {key}]
    #[arg(long, value_name = "TEMPLATE", value_parser = NameTemplate::parse, overrides_with = "flatten")]
    pub name: Option<NameTemplate>,
    /// Drop directories: the same as --name {base}
    #[arg(long, overrides_with = "name")]
    pub flatten: bool,
}

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Delivery")]
pub struct DeliveryArgs {
    /// Least proof wanted: auto, server-hash, read-back, sampled, acknowledged, size or none [default: auto]
    #[arg(long, value_name = "GRADE")]
    pub verify: Option<Verify>,
    /// Digest for the receipt: sha256, crc64nvme or md5; may be repeated [default: sha256; CRC-64/NVME always]
    #[arg(long, value_name = "NAME")]
    pub digest: Vec<Algorithm>,
    /// When the name is taken: fail, skip, update, replace or replace-unsafe [default: fail]
    #[arg(long, value_name = "POLICY")]
    pub if_exists: Option<IfExists>,
    /// Send again what was already delivered
    #[arg(long)]
    pub resend: bool,
    /// How a file gets its final name: rename, staging-dir or in-place [default: rename]
    #[arg(long, value_name = "HOW")]
    pub publish: Option<Publish>,
    /// Temporary name; {id} is the unique part [default: .ff-{id}.part]
    #[arg(long, value_name = "TEMPLATE", value_parser = TempName::parse)]
    pub temp_name: Option<TempName>,
    #[arg(long, help = "Give delivered files the time of the source (the default)", overrides_with = "no_preserve_time")]
    pub preserve_time: bool,
    #[arg(long, help = "Leave the time of delivered files to the server", overrides_with = "preserve_time")]
    pub no_preserve_time: bool,
    /// Permission bits of delivered files, in octal
    #[arg(long, value_name = "MODE", value_parser = octal)]
    pub chmod: Option<u32>,
    /// Create the destination directory too; without this only directories below it
    #[arg(long, overrides_with = "no_mkdir")]
    pub mkdir: bool,
    /// Create no directory at all
    #[arg(long, overrides_with = "mkdir")]
    pub no_mkdir: bool,
    /// Exit 4 when nothing matches
    #[arg(long)]
    pub fail_if_empty: bool,
}

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Speed and limits")]
pub struct SpeedArgs {
    /// Connections of one large file [default: as many as help, at most 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32))]
    pub connections: Option<u32>,
    /// Large files at once [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub transfers: Option<u32>,
    /// Lanes for small files [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub lanes: Option<u32>,
    #[arg(long, value_name = "SIZE", help = "Range read and confirmed at once [default: 10M]")]
    pub chunk_size: Option<ByteCount>,
    #[arg(long, value_name = "SIZE", help = "Memory for data under way, whole process [default: 32M]")]
    pub buffer: Option<ByteCount>,
    #[arg(long, value_name = "RATE", help = "Highest rate, per second: 8M, or off [default: off]")]
    pub bwlimit: Option<Rate>,
    /// Attempts without progress before a file fails [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub retries: Option<u32>,
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help = "Checkpoint and stop after this time")]
    pub max_duration: Option<Duration>,
}

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Append the receipt of every delivered file to this file
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    /// Print lines instead of a progress bar
    #[arg(long)]
    pub no_progress: bool,
}

#[derive(Debug, Args)]
pub struct LsArgs {
    /// s3://BUCKET[/PREFIX], sftp://… or file:///PATH
    pub url: String,
    /// Everything below, not only the next level
    #[arg(short, long)]
    pub recursive: bool,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// s3://BUCKET/KEY, s3://BUCKET/PREFIX/ or file:///PATH
    pub source: String,
    /// sftp://… or file:///PATH
    pub destination: String,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub select: SelectArgs,
    #[command(flatten)]
    pub name: NameArgs,
}

#[derive(Debug, Args)]
pub struct HashArgs {
    /// s3://…, sftp://… or file:///PATH
    pub url: String,
    /// sha256, crc64nvme or md5; may be repeated [default: sha256]
    #[arg(long, value_name = "NAME")]
    pub digest: Vec<Algorithm>,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// Transfer to go on with (see `fileferry history`); without it, every unfinished one
    pub id: Option<TransferId>,
    /// Give up: remove the state and the temporary files of ID, or with --all of every unfinished transfer
    #[arg(long)]
    pub abandon: bool,
    /// Every unfinished transfer
    #[arg(long, conflicts_with = "id")]
    pub all: bool,
    /// Where the password is: env:NAME, file:PATH or prompt
    #[arg(long, value_name = "REF")]
    pub password_from: Option<String>,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct CleanArgs {
    /// sftp://…/DIRECTORY/ or file:///DIRECTORY/
    pub url: String,
    /// Only files that did not change for this long
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1d")]
    pub older_than: Duration,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Temporary name that was used; {id} is the unique part [default: .ff-{id}.part]
    #[arg(long, value_name = "TEMPLATE", value_parser = TempName::parse)]
    pub temp_name: Option<TempName>,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct HistoryArgs {
    #[command(subcommand)]
    pub command: Option<HistoryCommand>,
    /// How many, newest first
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
}

#[derive(Debug, Subcommand)]
pub enum HistoryCommand {
    /// Forget finished transfers
    Prune {
        /// Finished at least this long ago
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        older_than: Duration,
    },
}

#[derive(Debug, Subcommand)]
pub enum ReceiptCommand {
    /// Check that receipts are intact and signed by a trusted key
    Verify(VerifyArgs),
    /// This machine's signing key, and the keys it trusts
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// File of receipt lines; - reads stdin
    pub file: PathBuf,
    /// Trust exactly this key: a fingerprint, or a file of fingerprints or public keys; may be repeated
    #[arg(long, value_name = "FILE|SHA256:…")]
    pub key: Vec<String>,
    /// Compare the delivered content with this local file
    #[arg(long, value_name = "FILE")]
    pub against: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Print fingerprint and public key, and the trusted keys
    Show,
    /// Make a new signing key; receipts of the old one stay trusted
    Rotate,
    /// Trust receipts of another machine
    Trust {
        /// Its fingerprint, from `fileferry receipt key show` there
        #[arg(value_parser = fingerprint)]
        fingerprint: String,
        /// A word to remember it by
        #[arg(default_value = "")]
        comment: String,
    },
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// An error class such as dest_auth, or a transfer id
    #[arg(value_name = "CLASS|ID")]
    pub subject: Option<String>,
}

/// The command with its variables. `FILEFERRY_` and the long name in capitals is the rule, without exceptions.
pub fn command() -> clap::Command {
    decorate(Cli::command())
}

fn decorate(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| match arg.get_long().map(variable) {
        Some(name) => {
            // `FILEFERRY_RESEND=1` is what people write; clap alone takes only `true`.
            let arg = match arg.get_action() {
                ArgAction::SetTrue => arg.value_parser(ValueParser::from(BoolishValueParser::new())),
                _ => arg,
            };
            arg.env(name).hide_env(true)
        }
        None => arg,
    });
    command.mut_subcommands(decorate)
}

pub fn variable(long: &str) -> String {
    format!("FILEFERRY_{}", long.replace('-', "_").to_ascii_uppercase())
}

fn fingerprint(text: &str) -> Result<String, String> {
    let digest = text.strip_prefix("SHA256:").map(|rest| data_encoding::BASE64_NOPAD.decode(rest.trim_end_matches('=').as_bytes()));
    match digest {
        Some(Ok(bytes)) if bytes.len() == 32 => Ok(text.trim_end_matches('=').to_owned()),
        _ => Err("a fingerprint is SHA256: and 43 characters, as `ssh-keygen -lf` prints it".to_owned()),
    }
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("permission bits are octal, for example 0640".to_owned()),
    }
}
