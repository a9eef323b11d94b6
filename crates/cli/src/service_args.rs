//! The commands of the service as clap sees them: `serve`, and those that speak to it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use model::{ByteCount, IfExists, Name, NameTemplate, TransferId, Verify, Window, parse_duration};

use crate::flags::{ContractArgs, DeliveryArgs, NameArgs, SelectArgs, ServerArgs, SpeedArgs, StoreArgs, fingerprint};

/// Which service.
#[derive(Debug, Args, Default)]
pub struct ServiceArgs {
    /// Data directory of the service [default: service in the state directory]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub service: ServiceArgs,
    /// Give another user of this machine a role: viewer, operator, auditor or admin; may be repeated
    #[arg(long, value_name = "USER=ROLE", value_parser = grant)]
    pub grant: Vec<(String, app::policy::Role)>,
    /// File of the key that seals secrets [default: secret-key in the data directory]
    #[arg(long, value_name = "FILE")]
    pub secret_key_file: Option<PathBuf>,
    /// Append notices of ended transfers to this file, a JSON object a line
    #[arg(long, value_name = "FILE")]
    pub notices: Option<PathBuf>,
    /// Copy of the audit's seals; keep it where who can change the records cannot write [default: audit-seals.jsonl in the data directory]
    #[arg(long, value_name = "FILE")]
    pub audit_seals: Option<PathBuf>,
}

fn grant(text: &str) -> Result<(String, app::policy::Role), String> {
    let (user, role) = text.split_once('=').ok_or("a grant is USER=ROLE")?;
    Ok((user.to_owned(), role.parse()?))
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// A new file
    pub file: PathBuf,
    #[command(flatten)]
    pub service: ServiceArgs,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Written by `fileferry backup`
    pub file: PathBuf,
    /// Replace the records that are there; they are moved aside
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub service: ServiceArgs,
}

#[derive(Debug, Subcommand)]
pub enum TransferCommand {
    /// Ask for a delivery: SOURCE:KEY or SOURCE:PREFIX/ to CONNECTOR:PATH
    Submit(Box<SubmitArgs>),
    /// Transfers, newest first
    List {
        /// How many
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: u32,
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// One transfer in full
    Show(OneTransfer),
    /// Follow a transfer until it has ended or waits for a person
    Watch(OneTransfer),
    /// End a transfer; what was delivered stays
    Cancel(OneTransfer),
    /// Stop a transfer so that it can be resumed
    Pause(OneTransfer),
    /// Go on with a paused or held transfer
    Resume(OneTransfer),
    /// Send again what has failed
    Retry(OneTransfer),
    /// Let a transfer of somebody else begin
    Approve(OneTransfer),
    /// Print the signed receipts of a transfer's files
    Receipt(OneTransfer),
}

#[derive(Debug, Args)]
pub struct OneTransfer {
    /// See `fileferry transfer list`
    pub id: TransferId,
    #[command(flatten)]
    pub service: ServiceArgs,
}

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// SOURCE:KEY, or SOURCE:PREFIX/ for everything below, or SOURCE: with --files-from or for everything
    pub source: String,
    /// CONNECTOR or CONNECTOR:PATH below its directory; a path ending in / is a directory
    pub destination: String,
    /// 0 to 9; higher ones begin first
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=9))]
    pub priority: u8,
    /// Makes it safe to submit again: the same key and input is the same transfer [default: a new one]
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Follow it until it has ended or waits for a person
    #[arg(long)]
    pub wait: bool,
    /// List of keys, one per line; - reads stdin
    #[arg(long, value_name = "FILE")]
    pub files_from: Option<PathBuf>,
    /// When the name is taken: fail, skip, update or replace [default: the connector's]
    #[arg(long, value_name = "POLICY")]
    pub if_exists: Option<IfExists>,
    /// More proof than the connector asks for
    #[arg(long, value_name = "GRADE")]
    pub verify: Option<Verify>,
    /// Name below the destination: {key} {dir} {base} {date:%Y%m%d} {version} [default: the connector's]
    #[arg(long, value_name = "TEMPLATE", value_parser = NameTemplate::parse)]
    pub name: Option<NameTemplate>,
    /// Only keys that match; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Not the keys that match; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    #[arg(long, value_name = "SIZE", help = "Only files of at least this size")]
    pub min_size: Option<ByteCount>,
    #[arg(long, value_name = "SIZE", help = "Only files of at most this size")]
    pub max_size: Option<ByteCount>,
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help = "Only files at least this old")]
    pub min_age: Option<Duration>,
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help = "Only files at most this old")]
    pub max_age: Option<Duration>,
    /// Send again what was already delivered
    #[arg(long)]
    pub resend: bool,
    /// Fail when nothing matches
    #[arg(long)]
    pub fail_if_empty: bool,
    #[command(flatten)]
    pub service: ServiceArgs,
}

#[derive(Debug, Subcommand)]
pub enum ConnectorCommand {
    /// Add a partner's server, or replace it with --force
    Add(Box<ConnectorArgs>),
    /// All connectors
    List(ServiceArgs),
    /// One connector in full
    Show(OneName),
    /// Log in, and write and remove a small scratch file
    Test(OneName),
    /// Trust the server under this fingerprint of its host key or certificate
    Trust {
        name: Name,
        /// SHA256:… as the partner tells it
        #[arg(value_parser = fingerprint)]
        fingerprint: String,
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// Let transfers begin and go on again
    Enable(OneName),
    /// Let no transfer begin, and hold those under way
    Disable(OneName),
    /// Forget a connector that no open transfer is for
    Remove(OneName),
}

#[derive(Debug, Args)]
pub struct OneName {
    pub name: Name,
    #[command(flatten)]
    pub service: ServiceArgs,
}

#[derive(Debug, Args)]
pub struct ConnectorArgs {
    /// Not `name`, which is a flag of the naming.
    #[arg(value_name = "NAME", help = "Name of the connector")]
    pub connector: Name,
    /// sftp://, ftpes://, ftps:// or ftp:// [USER@]HOST[:PORT]/DIRECTORY/, or file:///DIRECTORY/; everything goes below it
    pub url: String,
    /// Replace the connector of this name
    #[arg(long)]
    pub force: bool,
    /// Transfers at once [default: 5]
    #[arg(long, value_name = "N", help_heading = "Governance", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub at_once: Option<u32>,
    /// Who has to agree before a transfer begins: auto or second-person
    #[arg(long, value_name = "POLICY", help_heading = "Governance", value_parser = ["auto", "second-person", "change"], default_value = "auto")]
    pub approval: String,
    /// When transfers may begin and be sent: 22:00-04:00 or "Mon-Fri 08:00-18:00 Europe/Berlin" [default: always]
    #[arg(long, value_name = "WINDOW", help_heading = "Governance")]
    pub window: Option<Window>,
    /// Group that tickets are assigned to [default: DataOps]
    #[arg(long, value_name = "GROUP", help_heading = "Governance")]
    pub group: Option<String>,
    /// Oldest ticket that still opens the way
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Governance")]
    pub ticket_age: Option<Duration>,
    /// While the ticket system does not answer, running transfers go on or are held
    #[arg(long, value_name = "WHAT", help_heading = "Governance", value_parser = ["go", "hold"], default_value = "go")]
    pub without_tickets: String,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub select: SelectArgs,
    #[command(flatten)]
    pub naming: NameArgs,
    #[command(flatten)]
    pub delivery: DeliveryArgs,
    #[command(flatten)]
    pub contract: ContractArgs,
    #[command(flatten)]
    pub speed: SpeedArgs,
    #[command(flatten)]
    pub service: ServiceArgs,
}

#[derive(Debug, Subcommand)]
pub enum SourceCommand {
    /// Add a bucket with the prefixes that may be read, or replace it with --force
    Add(Box<SourceArgs>),
    /// All sources
    List(ServiceArgs),
    /// One source in full
    Show(OneName),
    /// Forget a source that no open transfer reads
    Remove(OneName),
}

#[derive(Debug, Args)]
pub struct SourceArgs {
    pub name: Name,
    /// s3://BUCKET/ or s3://BUCKET/PREFIX/
    pub url: String,
    /// Another prefix that may be read; may be repeated
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Vec<String>,
    /// Replace the source of this name
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub service: ServiceArgs,
}

#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Keep a value, sealed: from stdin, or asked for on a terminal
    Set(OneName),
    /// Names of the secrets; nothing prints a value
    List(ServiceArgs),
    /// Forget a secret that nothing refers to
    Remove(OneName),
    /// Seal all secrets with a new key
    Rekey(ServiceArgs),
}

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// What was done with one transfer, and by whom
    Show(OneTransfer),
    /// Print the whole audit: seals and entries, a JSON object a line
    Export(ServiceArgs),
    /// Check that nothing of the audit was changed, removed or added
    Verify(AuditVerifyArgs),
}

#[derive(Debug, Args)]
pub struct AuditVerifyArgs {
    /// Written by `fileferry audit export` [default: ask the service]
    pub file: Option<PathBuf>,
    /// Copy of the seals, as `serve --audit-seals` keeps it; it decides instead of the seals in the audit
    #[arg(long, value_name = "FILE")]
    pub seals: Option<PathBuf>,
    /// Fingerprint, or a file of keys, whose seals are accepted; may be repeated [default: trusted keys]
    #[arg(long, value_name = "FILE|SHA256:…")]
    pub key: Vec<String>,
    #[command(flatten)]
    pub service: ServiceArgs,
}
