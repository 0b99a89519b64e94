//! Resident memory of a proxy that holds idle tunnels, all included: TLS, buffers, tasks or threads. Each tunnel has
//! carried a little in both directions before it fell idle.

use std::{
    io::Read,
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};

use crate::{
    ends::{Dialler, Far, GREETING, Order},
    proxy::{Kind, Workshop, stand_aside},
    report::Report,
};

const KINDS: [Kind; 4] = [Kind::Ours, Kind::HaProxy, Kind::Nginx, Kind::Stunnel];
/// Threads that open tunnels.
const DIALLERS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(30);

pub fn run(count: usize) -> anyhow::Result<Report> {
    stand_aside()?;
    let workshop = Workshop::open(count)?;
    let count = workshop.sessions();
    let mut report = Report { scenario: "sessions", repetitions: 1, ..Report::default() };
    let mut best = f64::INFINITY;
    let mut ours = 0.0;
    for kind in KINDS {
        // A far end of its own, since one port has not enough addresses to be called from.
        let far = Far::open()?;
        let proxy = workshop.start(kind, far.port, true)?;
        let before = proxy.rss_kib()?;
        let clients = Clients::open(proxy.port, count).with_context(|| format!("{count} sessions through {kind}"))?;
        let began = Instant::now();
        while far.held() < count {
            ensure!(began.elapsed() < PATIENCE, "{kind} holds only {} of {count} sessions", far.held());
            std::thread::sleep(Duration::from_millis(20));
        }
        // What is returned when a tunnel falls idle has been returned by now.
        std::thread::sleep(Duration::from_secs(1));
        let after = proxy.rss_kib()?;
        drop(clients);
        let each = after as f64 / count as f64;
        if kind == Kind::Ours {
            ours = each;
            report.figure("rss_kib_per_session", each);
            report.figure("rss_kib_before", before as f64);
            report.figure("rss_kib_added_per_session", after.saturating_sub(before) as f64 / count as f64);
        } else {
            best = best.min(each);
            report.peer(&kind.to_string(), "rss_kib_per_session", each);
            report.peer(&kind.to_string(), "rss_kib_before", before as f64);
        }
    }
    report.figure("sessions", count as f64);
    report.figure("rss_ratio", ours / best);
    Ok(report)
}

/// Clients in a process of their own, since this one has the far ends. They leave when it is dropped.
struct Clients(Child);

impl Clients {
    fn open(port: u16, count: usize) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["hold", "--port", &port.to_string(), "--count", &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let ready = child.stdout.take().context("no output")?.read(&mut [0])?;
        ensure!(ready > 0, "the clients gave up");
        Ok(Self(child))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(clap::Args)]
pub struct Arguments {
    /// Port of the proxy
    #[arg(long)]
    port: u16,
    /// How many tunnels
    #[arg(long)]
    count: usize,
}

/// Opens tunnels, says so, and holds them until nobody wants them any more.
pub fn hold(arguments: &Arguments) -> anyhow::Result<()> {
    let (port, count) = (arguments.port, arguments.count);
    let dialler = Dialler::new(true)?;
    let share = count.div_ceil(DIALLERS);
    let _clients = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..DIALLERS)
            .map(|number| {
                let dialler = &dialler;
                let mine = share.min(count.saturating_sub(number * share));
                scope.spawn(move || -> anyhow::Result<Vec<TcpStream>> {
                    let mut clients = Vec::with_capacity(mine);
                    for _ in 0..mine {
                        let mut near = dialler.dial(port)?;
                        let order = near.sealed(&Order::Hold.to_bytes())?;
                        near.send(&order)?;
                        near.count(GREETING)?;
                        clients.push(near.into_tcp());
                    }
                    Ok(clients)
                })
            })
            .collect();
        let mut all = Vec::with_capacity(count);
        for thread in threads {
            all.extend(thread.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        anyhow::Ok(all)
    })?;
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
