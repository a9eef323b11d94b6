//! Shell completions and manual pages, made from the same definition as the command line itself.

use std::io::Write;
use std::path::Path;

use clap_complete::Shell;

use crate::args;
use crate::exit;
use crate::trouble::Trouble;

/// The script that a shell reads to complete our commands and flags.
pub fn completion(shell: Shell) -> Result<u8, Trouble> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "fileferry", &mut script);
    // A reader that went away wants no more of it.
    let _ = std::io::stdout().write_all(&script);
    Ok(exit::DONE)
}

/// `fileferry.1`, and a page for each command beside it.
pub fn pages(directory: &Path) -> Result<u8, Trouble> {
    let written = std::fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(args::command(), directory));
    match written {
        Ok(()) => Ok(exit::DONE),
        Err(error) => Err(Trouble::usage(
            format!("could not write manual pages into {}: {error}", directory.display()),
            "name a directory that you may write to",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_is_completed() {
        let directory = tempfile::tempdir().unwrap();
        pages(directory.path()).unwrap();
        let main = std::fs::read_to_string(directory.path().join("fileferry.1")).unwrap();
        for command in args::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let page = directory.path().join(format!("fileferry-{}.1", command.get_name()));
            assert!(page.exists(), "{}", page.display());
            assert!(main.contains(command.get_name()), "{} is not on the main page", command.get_name());
        }
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut args::command(), "fileferry", &mut script);
            assert!(String::from_utf8(script).unwrap().contains("if-exists"), "{shell}");
        }
    }
}
