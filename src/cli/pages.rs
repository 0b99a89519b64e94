//! What a package installs beside the program: completion for shells and manual pages, both made from the commands
//! themselves.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

#[derive(Args)]
pub struct Completion {
    /// For which shell
    shell: Shell,
}

#[derive(Args)]
pub struct Manual {
    /// Where to put the pages, one for each command
    directory: PathBuf,
}

/// Prints what makes a shell complete the commands.
pub fn completion(arguments: &Completion, mut command: Command) -> io::Result<()> {
    let name = command.get_name().to_owned();
    // Into memory first, for it does not bear a reader that goes away.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    io::stdout().write_all(&script)
}

/// Writes a page for the command and each below it, as `qvd-admin-vm-list.1`.
pub fn manual(arguments: &Manual, command: Command) -> anyhow::Result<()> {
    let directory = &arguments.directory;
    fs::create_dir_all(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    let name = command.get_name().to_owned();
    page(directory, command.disable_help_subcommand(true), &name)
}

fn page(directory: &Path, command: Command, name: &str) -> anyhow::Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        page(directory, inner.clone().disable_help_subcommand(true), &format!("{name}-{}", inner.get_name()))?;
    }
    let path = directory.join(format!("{name}.1"));
    // clap wants names that live as long as the program, and this ends with it.
    let named: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let write = || Man::new(command.name(named)).render(&mut File::create(&path)?);
    write().with_context(|| format!("{} cannot be written", path.display()))
}
