//! `make bench-workflow`: executions of workflows on the SQLite store. How many steps a second, also where the disk is slow; how
//! much memory waiting takes; how soon a restart is at work; what many finished executions cost. Each part is a process.

mod growth;
mod line;
mod memory;
mod speed;
mod stage;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: bench-workflow [speed|memory|restart|growth]… ; all parts without any";
/// Where a part finds the directory it works in.
const DIRECTORY: &str = "BENCH_WORKFLOW_DIRECTORY";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) {
        let part = arguments.first().context(USAGE)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        return runtime.block_on(async {
            match part.as_str() {
                "speed" => speed::all(&directory).await,
                "wait" => memory::wait(&directory).await,
                "restart" => memory::restart(&directory).await,
                "growth" => growth::all(&directory).await,
                _ => bail!(USAGE),
            }
        });
    }
    let wanted = |part: &str| arguments.is_empty() || arguments.iter().any(|named| named == part);
    if let Some(strange) = arguments.iter().find(|name| !["speed", "memory", "restart", "growth"].contains(&name.as_str())) {
        bail!("{strange}? {USAGE}");
    }
    println!("{} processors; the program as the tests have it (own code at opt-level 1); data in {}\n", processors(), place().display());
    if wanted("speed") {
        part("speed", tempfile::tempdir_in(place())?.path())?;
    }
    if wanted("memory") || wanted("restart") {
        let directory = tempfile::tempdir_in(place())?;
        part("wait", directory.path())?;
        part("restart", directory.path())?;
    }
    if wanted("growth") {
        part("growth", tempfile::tempdir_in(place())?.path())?;
    }
    Ok(())
}

/// A directory of a disk, since what a disk takes is the point here.
fn place() -> PathBuf {
    std::env::temp_dir()
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn part(name: &str, directory: &std::path::Path) -> Result<()> {
    let status = Command::new(std::env::current_exe()?).arg(name).env(DIRECTORY, directory).status()?;
    if !status.success() {
        bail!("the part {name} ended with {status}");
    }
    println!();
    Ok(())
}
