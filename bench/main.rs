//! `qvd-bench`: measures what the project promises, each beside a peer or the physical floor in the same run.
//! A scenario is a file; it sets up all it needs, interleaves its repetitions with the other side's and cleans up.
//! Nothing is judged here: figures are printed, people compare them with the promises.

mod bare;
#[path = "../tests/browser/driver.rs"]
mod browser;
mod claims;
mod clients;
mod connect;
mod cpu;
mod crowd;
mod desktop;
mod ends;
mod faces;
mod failover;
mod fake;
mod first_pixel;
mod fleet;
mod floor;
mod in_guest;
mod list;
mod logins;
mod notify;
mod pairs;
mod pingpong;
mod proxy;
mod relay;
mod report;
mod rest;
mod roam;
mod routed;
mod rows;
mod sessions;
mod shares;
mod since;
mod site;
mod small;
mod storm;
mod swarm;
mod together;
mod tunnel;
mod unpack;
mod vmstart;
mod wat;
mod weight;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::task::block_in_place;
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
    /// From the request for a stopped desktop to its first pixel at the client, beside a bare lxc-start
    Desktop,
    /// Lists of VMs over kept connections, and with a new connection and login each, beside bare hashing
    List,
    /// Round trips through 100 tunnels during a storm of logins, beside the same in calm
    Logins,
    /// A QUIC client that changes its address in the middle of a transfer; congestion controls over a bad link
    Roam,
    /// From vm_start to the answer of the VM's agent, beside a bare lxc-start
    Vmstart {
        /// VMs that start at the same moment
        #[arg(long, default_value_t = 1)]
        at_once: usize,
    },
    /// From an agent's word that it powers off until everything is freed, beside a bare lxc-stop
    Vmstop {
        /// VMs that stop at the same moment
        #[arg(long, default_value_t = 1)]
        at_once: usize,
    },
    /// What one more idle container costs in memory
    Weight(weight::Arguments),
    /// Many small containers on one node, and what is left of them
    Crowd(crowd::Arguments),
    /// From the last sign of life of a node to its user's desktop elsewhere, beside the lapse
    Failover {
        /// How often a node dies
        #[arg(long, default_value_t = 10)]
        rounds: usize,
    },
    /// Through the router of another node where nodes share no network, beside nodes that do
    Routed {
        /// MiB that are sent and come back in each round
        #[arg(long, default_value_t = 64)]
        mib: usize,
    },
    /// Bulk through a tunnel, both directions, 1, 8 and 64 connections, beside other proxies
    Tunnel {
        /// Plain TCP in place of TLS, beside a relay that copies
        #[arg(long)]
        plain: bool,
        /// Keys in the kernel in place of user space, in a virtual machine whose kernel takes them
        #[arg(long, conflicts_with = "plain")]
        in_guest: bool,
        /// MiB that each measurement moves (64; plain 256, for a second is long there); in the guest those of the echo (256)
        #[arg(long)]
        mib: Option<u64>,
    },
    /// Latency that a tunnel adds to a direct connection, beside other proxies
    Pingpong {
        /// Plain TCP in place of TLS
        #[arg(long)]
        plain: bool,
        /// Exchanges in each repetition
        #[arg(long, default_value_t = 1000)]
        exchanges: u32,
    },
    /// Memory of idle TLS tunnels, beside other proxies
    Sessions {
        /// How many at once; fewer where the limit of open files is lower than a proxy needs
        #[arg(long, default_value_t = 10_000)]
        count: usize,
    },
    /// Commands at a steady rate to many simulated nodes, beside as many bare listeners; the database at rest
    Swarm(swarm::Arguments),
    /// What nodes ask again and again, with a thousand VMs and with a million
    Rows {
        /// VMs of the large cluster
        #[arg(long, default_value_t = 1_000_000)]
        vms: usize,
    },
    /// Pages of 50 of many VMs in the web tool, with filters and orders, beside the queries of one
    Wat {
        /// VMs
        #[arg(long, default_value_t = 100_000)]
        vms: usize,
    },
    /// From a committed change until a browser shows it, with 49 event streams open besides
    Live {
        /// VMs
        #[arg(long, default_value_t = 1_000)]
        vms: usize,
    },
    /// The list of many VMs on the command line, beside psql
    Cli {
        /// VMs
        #[arg(long, default_value_t = 100_000)]
        vms: usize,
    },
    /// A start that the command line waits for, beside the start
    Wait,
    /// All start requests at once over simulated nodes
    Storm(storm::Arguments),
    /// A node that only watches its running containers
    Rest(rest::Arguments),
    /// The demo's image, unpacked, beside tar
    Unpack {
        /// On the file system of this directory; the one for temporary files if left out
        #[arg(long, value_name = "DIRECTORY")]
        beside: Option<std::path::PathBuf>,
    },
    #[command(hide = true)]
    Relay(relay::Arguments),
    #[command(hide = true)]
    Hold(sessions::Arguments),
    #[command(hide = true)]
    Clients(clients::Arguments),
    #[command(hide = true)]
    Inside {
        #[arg(long)]
        mib: u64,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let part = match &arguments.scenario {
        Scenario::Relay(arguments) => Some(relay::serve(arguments)),
        Scenario::Hold(arguments) => Some(sessions::hold(arguments)),
        Scenario::Clients(arguments) => Some(clients::serve(arguments)),
        _ => None,
    };
    if let Some(part) = part {
        return match part {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("qvd-bench: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
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
            Scenario::Desktop => first_pixel::run(arguments.repetitions.unwrap_or(15)).await,
            Scenario::List => list::run(arguments.repetitions.unwrap_or(7)).await,
            Scenario::Logins => logins::run(arguments.repetitions.unwrap_or(7)).await,
            Scenario::Roam => roam::run(arguments.repetitions.unwrap_or(15)).await,
            Scenario::Vmstart { at_once } => vmstart::starts(arguments.repetitions.unwrap_or(25), at_once, seen).await,
            Scenario::Vmstop { at_once } => vmstart::stops(arguments.repetitions.unwrap_or(25), at_once, seen).await,
            Scenario::Weight(weight) => weight::run(weight).await,
            Scenario::Crowd(crowd) => crowd::run(crowd).await,
            Scenario::Failover { rounds } => failover::run(rounds).await,
            Scenario::Routed { mib } => routed::run(arguments.repetitions.unwrap_or(9), mib << 20).await,
            Scenario::Swarm(swarm) => swarm::run(arguments.repetitions.unwrap_or(3), swarm, seen).await,
            Scenario::Rows { vms } => rows::run(arguments.repetitions.unwrap_or(500), vms).await,
            Scenario::Wat { vms } => wat::pages(arguments.repetitions.unwrap_or(50), vms).await,
            Scenario::Live { vms } => wat::live(arguments.repetitions.unwrap_or(50), vms).await,
            Scenario::Cli { vms } => faces::cli(arguments.repetitions.unwrap_or(7), vms).await,
            Scenario::Wait => faces::wait(arguments.repetitions.unwrap_or(25)).await,
            Scenario::Storm(storm) => storm::run(arguments.repetitions.unwrap_or(1), storm, seen).await,
            Scenario::Unpack { beside } => unpack::run(arguments.repetitions.unwrap_or(7), beside).await,
            Scenario::Rest(rest) => rest::run(rest).await,
            // These use threads, as tunnels with little of anything else in the way need it.
            Scenario::Tunnel { in_guest: true, mib, .. } => {
                block_in_place(|| in_guest::run(arguments.repetitions.unwrap_or(3), mib.unwrap_or(256)))
            }
            Scenario::Tunnel { plain, mib, .. } => {
                let mib = mib.unwrap_or(if plain { 256 } else { 64 });
                block_in_place(|| tunnel::run(arguments.repetitions.unwrap_or(15), plain, mib << 20))
            }
            Scenario::Inside { mib } => block_in_place(|| in_guest::inside(arguments.repetitions.unwrap_or(3), mib)),
            Scenario::Pingpong { plain, exchanges } => {
                block_in_place(|| pingpong::run(arguments.repetitions.unwrap_or(15), plain, exchanges))
            }
            Scenario::Sessions { count } => block_in_place(|| sessions::run(count)),
            Scenario::Relay(_) | Scenario::Hold(_) | Scenario::Clients(_) => unreachable!("served above"),
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
