//! The command line as clap sees it. Every long flag gets its `FILEFERRY_*` variable in one place, `command()`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, ValueParser};
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};
use model::{Algorithm, TempName, TransferId, parse_duration};

use crate::flags::fingerprint;
pub use crate::flags::{ContractArgs, DeliveryArgs, NameArgs, OutputArgs, SelectArgs, ServerArgs, SpeedArgs, StoreArgs};
pub use crate::service_args::{
    AuditCommand, BackupArgs, ConnectorCommand, RestoreArgs, SecretCommand, ServeArgs, ServiceArgs, SourceCommand, TransferCommand,
};

#[derive(Debug, Parser)]
#[command(name = "fileferry", version, max_term_width = 110, arg_required_else_help = true)]
#[command(about = "Delivers objects from S3 to SFTP, FTP and FTPS servers: resumable, and proven with a signed receipt")]
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
    /// File with rclone's names, instead of RCLONE_CONFIG and the usual places
    #[arg(long, value_name = "FILE", global = true)]
    pub rclone_config: Option<PathBuf>,
    /// One JSON object per line on stdout, everything else on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// More detail on stderr: -v information, -vv debugging, -vvv everything of ours
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
    /// Send what is new in a prefix, round after round, each version once
    Watch(Box<WatchArgs>),
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
    /// Try a destination out with scratch files: resuming, renaming, proof, limits; kept for later copies
    Rehearse(RehearseArgs),
    /// Look at a destination quickly: login, features, one small scratch file
    Probe(RehearseArgs),
    /// What is known of a destination
    Profile {
        #[command(subcommand)]
        command: ProfileCommand,
    },
    /// Show what was copied from this machine
    History(HistoryArgs),
    /// Check receipts; show, rotate and trust signing keys
    Receipt {
        #[command(subcommand)]
        command: ReceiptCommand,
    },
    /// Run the service: transfers with approval, tickets and a workflow that survives everything
    Serve(ServeArgs),
    /// Deliveries by the service: submit, follow, steer, prove
    Transfer {
        #[command(subcommand)]
        command: TransferCommand,
    },
    /// The partners' servers that the service may deliver to
    Connector {
        #[command(subcommand)]
        command: ConnectorCommand,
    },
    /// The buckets that the service may read
    Source {
        #[command(subcommand)]
        command: SourceCommand,
    },
    /// Passwords and keys that the service keeps, sealed
    Secret {
        #[command(subcommand)]
        command: SecretCommand,
    },
    /// What was done with transfers and settings, by whom, and whether that is as it was written
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Copy the records of a service into one file, also while it runs
    Backup(BackupArgs),
    /// Put a backup in the place of a service's records
    Restore(RestoreArgs),
    /// Check, try out and draw definitions of workflows in Amazon States Language
    Workflow {
        #[command(subcommand)]
        command: WorkflowCommand,
    },
    /// Explain an error class or a transfer; without an argument, list the classes
    Explain(ExplainArgs),
    /// Print the script that completes commands and flags in a shell
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory
    Man { directory: PathBuf },
}

#[derive(Debug, Args)]
pub struct CopyArgs {
    /// s3://BUCKET/KEY, s3://BUCKET/PREFIX/ or file:///PATH, or NAME:PATH with a name from rclone.conf
    pub source: String,
    /// sftp://, ftpes:// (FTP with explicit TLS), ftps:// (implicit TLS) or ftp:// [USER[:PASS]@]HOST[:PORT]/PATH, or file:///PATH; a path ending in / is a directory, /~/ the login directory; or NAME:PATH with a name from rclone.conf
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
    pub contract: ContractArgs,
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

#[derive(Debug, Args)]
pub struct WatchArgs {
    #[command(flatten)]
    pub copy: CopyArgs,
    /// From the end of one listing to the next [default: 30s; 5m with --queue]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Watching")]
    pub every: Option<Duration>,
    /// Leave objects that changed within this time for a later round [default: 10s; 0s with --queue]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Watching")]
    pub settle: Option<Duration>,
    /// Take the bucket's events from this SQS queue (URL, ARN or name) and send what they name at once
    #[arg(long, value_name = "QUEUE", help_heading = "Watching")]
    pub queue: Option<String>,
    /// One round and no more, for cron
    #[arg(long, help_heading = "Watching")]
    pub once: bool,
    /// A line about how it is doing, this often
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "5m", help_heading = "Watching")]
    pub health_every: Duration,
}

#[derive(Debug, Args)]
pub struct LsArgs {
    /// s3://BUCKET[/PREFIX], sftp://…, ftpes://…, ftps://…, ftp://… or file:///PATH
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
    /// sftp://…, ftpes://…, ftps://…, ftp://… or file:///PATH
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
    /// s3://…, sftp://…, ftpes://…, ftps://…, ftp://… or file:///PATH
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
    /// sftp://…/DIRECTORY/ (also ftpes, ftps, ftp) or file:///DIRECTORY/
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
pub struct RehearseArgs {
    /// sftp://…, ftpes://…, ftps://…, ftp://… or file:///DIRECTORY/
    pub url: String,
    /// Directory for the scratch files instead of the URL's; below it unless it begins with /
    #[arg(long, value_name = "DIRECTORY")]
    pub dir: Option<String>,
    /// Write nothing: only the login, and what the server says of itself
    #[arg(long)]
    pub read_only: bool,
    /// Write a letter to the partner's administrator into FILE; - prints it
    #[arg(long, value_name = "FILE")]
    pub letter: Option<PathBuf>,
    /// Name of scratch files; {id} is the unique part [default: .ff-{id}.part]
    #[arg(long, value_name = "TEMPLATE", value_parser = TempName::parse)]
    pub temp_name: Option<TempName>,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// Print what is known of a destination, and since when
    Show(ProfileArgs),
    /// Forget it; the next copy learns anew
    Forget(ProfileArgs),
}

#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// sftp://…, ftpes://…, ftps://… or ftp://…; only user, host and port count
    pub url: String,
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
    /// Write a page for the partner, with checksums and a signature that ssh-keygen checks
    Page(PageArgs),
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

#[derive(Debug, Args)]
pub struct PageArgs {
    /// File of receipt lines; - reads stdin
    pub file: PathBuf,
    /// Directory to write into; made if it is missing
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
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

#[derive(Debug, Subcommand)]
pub enum WorkflowCommand {
    /// Say what is wrong with definitions, and where
    Lint(LintArgs),
    /// Run a definition in memory, with mocked tasks and a clock that jumps
    Run(RunArgs),
    /// What the workflow of a transfer has done, duty by duty
    Show(ShowArgs),
    /// Draw a definition as a Mermaid flowchart
    Graph {
        /// Definition; - reads stdin
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct LintArgs {
    /// Definitions; - reads stdin
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// What not every engine runs alike is an error too
    #[arg(long)]
    pub portable: bool,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Definition; - reads stdin
    pub file: PathBuf,
    /// Input of the execution: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-", default_value = "{}")]
    pub input: String,
    /// What the task states answer; #CASE chooses a test case of a MockConfigFile
    #[arg(long, value_name = "FILE[#CASE]")]
    pub mocks: Option<String>,
    /// Print the events of the execution first
    #[arg(long)]
    pub history: bool,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A transfer of the service; or one of its executions, ff-ID-RUN, also as the end of an ARN
    #[arg(value_parser = shown)]
    pub id: Shown,
    /// Every event, not only the states
    #[arg(long)]
    pub events: bool,
    #[command(flatten)]
    pub service: ServiceArgs,
}

/// What `workflow show` is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub transfer: TransferId,
    /// The name of the one execution, if not all.
    pub execution: Option<String>,
}

fn shown(text: &str) -> Result<Shown, String> {
    let name = text.rsplit(':').next().unwrap_or(text);
    let (id, execution) = match name.strip_prefix("ff-").and_then(|rest| rest.rsplit_once('-')) {
        Some((id, run)) if run.parse::<u32>().is_ok() => (id, Some(name.to_owned())),
        _ => (name, None),
    };
    let transfer = id.parse().map_err(|_| format!("{text:?} is neither the id of a transfer nor ff-ID-RUN"))?;
    Ok(Shown { transfer, execution })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_execution_is_named_by_its_transfer_its_own_name_or_its_arn() {
        let id = "aeaqcaibaeaqcaib";
        assert_eq!(shown(id).unwrap(), Shown { transfer: id.parse().unwrap(), execution: None });
        let one = Shown { transfer: id.parse().unwrap(), execution: Some(format!("ff-{id}-2")) };
        assert_eq!(shown(&format!("ff-{id}-2")).unwrap(), one);
        let arn = format!("arn:aws:states:us-east-1:123456789012:execution:FileFerry-TransferStateMachine:ff-{id}-2");
        assert_eq!(shown(&arn).unwrap(), one);
        for bad in ["", "ff-x-1", "ff-aeaqcaibaeaqcaib-x", "arn:aws:states:us-east-1:123456789012:execution:other"] {
            assert!(shown(bad).unwrap_err().contains("neither"), "{bad}");
        }
    }
}
