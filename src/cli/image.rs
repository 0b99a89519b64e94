//! `qvd image`: files of disk images, before any database knows of them.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::{
    demo::image::{self, PackageName, Recipe},
    storage::{Examination, examine},
};

#[derive(Subcommand)]
pub enum Command {
    /// Say whether a file will work as a disk image, and why not; exits with 1 if it will not
    Check {
        /// The file
        file: PathBuf,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Build a desktop image from Debian packages of this machine's mirror (needs root)
    Build(Build),
}

#[derive(Args)]
pub struct Build {
    /// Where to put it; in this directory, under a name that tells what it is, if left out
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Package of the window manager
    #[arg(long, value_name = "PACKAGE", default_value = "jwm")]
    window_manager: PackageName,
    /// One more package; may be repeated
    #[arg(long = "package", value_name = "PACKAGE")]
    packages: Vec<PackageName>,
    /// Seconds since 1970 that no file of the image is younger than, so that the same packages make the same image
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS")]
    epoch: Option<u64>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check { file, json } => check(&file, json).await,
        Command::Build(arguments) => make(arguments).await,
    }
}

async fn check(file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let found = examine(file).await?;
    let works = found.problems.is_empty();
    let Examination { kind, size, problems, warnings } = found;
    let kind = kind.map(|kind| kind.to_string());
    if json {
        println!(
            "{}",
            json!({ "file": file, "works": works, "kind": kind, "size": size, "problems": problems, "warnings": warnings })
        );
    } else {
        let verdict = if works { "will work" } else { "will not work" };
        println!("{} ({}, {size} bytes) {verdict}.", file.display(), kind.as_deref().unwrap_or("unknown"));
        problems.iter().for_each(|problem| println!("  problem: {problem}"));
        warnings.iter().for_each(|warning| println!("  warning: {warning}"));
    }
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn make(arguments: Build) -> anyhow::Result<ExitCode> {
    let mut recipe = Recipe::default().window_manager(arguments.window_manager).packages(arguments.packages);
    if let Some(epoch) = arguments.epoch {
        recipe = recipe.epoch(epoch);
    }
    let image = build(&recipe).await?;
    let output = match arguments.output {
        Some(output) => output,
        None => PathBuf::from(image.file_name().context("the image has no name")?),
    };
    let mut part = output.clone().into_os_string();
    part.push(".part");
    // Whoever looks finds it whole or not at all.
    std::fs::copy(&image, &part)
        .and_then(|_| std::fs::rename(&part, &output))
        .with_context(|| format!("{} cannot be written", output.display()))?;
    check(&output, arguments.json).await
}

/// Builds an image, or finds it in the cache; says on the terminal how far it is.
pub async fn build(recipe: &Recipe) -> anyhow::Result<PathBuf> {
    let bar = indicatif::ProgressBar::new(100);
    bar.set_style(indicatif::ProgressStyle::with_template("   {bar:30} {percent:>3} %  {msg}")?);
    let plain = bar.is_hidden();
    let mut told = String::new();
    let image = image::built(Path::new(image::CACHE), recipe, |progress| {
        let stage = progress.stage.to_string();
        bar.set_position(progress.percent.into());
        bar.set_message(stage.clone());
        let tenth = format!("{stage} {} %", progress.percent / 10 * 10);
        if plain && tenth != told {
            eprintln!("   {tenth}");
            told = tenth;
        }
    })
    .await?;
    bar.finish_and_clear();
    Ok(image)
}
