//! `qvd-bench`: measures what the project promises, each beside a peer or the physical floor in the same run.
//! A scenario is a file; it sets up all it needs, interleaves its repetitions with the other side's and cleans up.
//! Nothing is judged here: figures are printed, people compare them with the promises.

mod claims;
mod connect;
mod desktop;
mod notify;
mod report;
mod roam;
mod site;
mod vmstart;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::report::Report;

/// Measures what the project promises.
#[derive(Parser)]
#[command(name = "qvd-bench", version)]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
    /// Repetitions of each side
    #[arg(long, short = 'n', global = true)]
    repetitions: Option<usize>,
    /// End the output with one JSON object
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Scenario {
    /// From the commit call of vm_start to hkd's committed claim, beside a bare notification and update
    Notify,
    /// From TCP connect to 101 for a running VM with a suspended X session
    Connect,
    /// A QUIC client that changes its address in the middle of a transfer; congestion controls over a bad link
    Roam,
    /// From vm_start to the answer of the VM's agent, beside a bare lxc-start
    Vmstart,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (claims, seen) = claims::layer();
    let quiet = EnvFilter::try_from_env("QVD_LOG").unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(quiet))
        .with(claims)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("qvd-bench: the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match arguments.scenario {
            Scenario::Notify => notify::run(arguments.repetitions.unwrap_or(300), seen).await,
            Scenario::Connect => connect::run(arguments.repetitions.unwrap_or(25)).await,
            Scenario::Roam => roam::run(arguments.repetitions.unwrap_or(15)).await,
            Scenario::Vmstart => vmstart::run(arguments.repetitions.unwrap_or(25), seen).await,
        }
    });
    match outcome {
        Ok(report) => {
            print(&report, arguments.json);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("qvd-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(report: &Report, json: bool) {
    println!("{report}");
    if json {
        println!("{}", report.to_json());
    }
}
