//! Bulk through one-threaded proxies, each round the same case through all of them in turn. Both ends of the tunnels
//! share the other processors, so the proxy is what limits. The overall ratios are those of the worst case.

use std::{
    sync::Barrier,
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::{
    ends::{Dialler, Far, Near, Order},
    pairs::{Better, Rounds, mean, worst},
    proxy::{Kind, Proxy, Workshop, stand_aside},
    report::Report,
};

#[derive(Clone, Copy)]
pub struct Case {
    pub down: bool,
    pub connections: usize,
}

impl Case {
    const ALL: [Self; 6] = [
        Self { down: true, connections: 1 },
        Self { down: true, connections: 8 },
        Self { down: true, connections: 64 },
        Self { down: false, connections: 1 },
        Self { down: false, connections: 8 },
        Self { down: false, connections: 64 },
    ];

    pub fn name(self) -> String {
        format!("{}_{}", if self.down { "down" } else { "up" }, self.connections)
    }
}

pub const GIB: f64 = (1u64 << 30) as f64;

pub fn run(repetitions: usize, plain: bool, bytes: u64) -> anyhow::Result<Report> {
    stand_aside()?;
    let workshop = Workshop::open(64)?;
    let far = Far::open()?;
    let dialler = Dialler::new(!plain)?;
    let (kinds, peers): (&[Kind], &[Kind]) = if plain {
        (&[Kind::Ours, Kind::Copy, Kind::HaProxy], &[Kind::HaProxy])
    } else {
        (&[Kind::Ours, Kind::HaProxy, Kind::Nginx, Kind::Stunnel], &[Kind::HaProxy, Kind::Nginx, Kind::Stunnel])
    };
    let proxies = kinds.iter().map(|kind| workshop.start(*kind, far.port, !plain)).collect::<Result<Vec<_>, _>>()?;
    let mut throughput: Vec<Rounds> = Case::ALL.iter().map(|_| Rounds::default()).collect();
    let mut cost: Vec<Rounds> = Case::ALL.iter().map(|_| Rounds::default()).collect();
    // The first round warms caches and is not counted.
    for round in 0..=repetitions {
        for (index, case) in Case::ALL.into_iter().enumerate() {
            for turn in 0..proxies.len() {
                let proxy = &proxies[(round + turn) % proxies.len()];
                let (took, cpu) = transfer(proxy, &dialler, &far, case, bytes)
                    .with_context(|| format!("{} through {}", case.name(), proxy.kind))?;
                if round > 0 {
                    throughput[index].add(proxy.kind, bytes as f64 / took.as_secs_f64() / (1 << 20) as f64);
                    cost[index].add(proxy.kind, cpu.as_secs_f64() / (bytes as f64 / GIB));
                }
            }
        }
    }
    let scenario = if plain { "tunnel --plain" } else { "tunnel" };
    let mut report = Report { scenario, repetitions, ..Report::default() };
    let (mut fast, mut cheap, mut against_copy) = (Vec::new(), Vec::new(), Vec::new());
    for (index, case) in Case::ALL.into_iter().enumerate() {
        let (throughput, cost, name) = (&throughput[index], &cost[index], case.name());
        fast.push(throughput.ratio_to_best(peers, Better::Higher));
        cheap.push(cost.ratio_to_best(peers, Better::Lower));
        report.figure(format!("{name}_throughput_ratio"), fast[index]);
        report.figure(format!("{name}_cpu_per_gib_ratio"), cheap[index]);
        if plain {
            against_copy.push(cost.ratio(Kind::Copy));
            report.figure(format!("{name}_cpu_per_gib_ratio_copy"), against_copy[index]);
        }
        for kind in kinds {
            let (speed, cpu) = (throughput.median(*kind), cost.median(*kind));
            if *kind == Kind::Ours {
                report.figure(format!("{name}_mib_per_s"), speed);
                report.figure(format!("{name}_cpu_s_per_gib"), cpu);
                report.spread.insert(format!("{name}_mib_per_s"), throughput.spread(*kind).into_iter().collect());
                report.spread.insert(format!("{name}_cpu_s_per_gib"), cost.spread(*kind).into_iter().collect());
            } else {
                report.peer(&kind.to_string(), format!("{name}_mib_per_s"), speed);
                report.peer(&kind.to_string(), format!("{name}_cpu_s_per_gib"), cpu);
            }
        }
    }
    report.figure("throughput_ratio", worst(&fast, Better::Higher));
    report.figure("throughput_ratio_mean", mean(&fast));
    report.figure("cpu_per_gib_ratio", worst(&cheap, Better::Lower));
    report.figure("cpu_per_gib_ratio_mean", mean(&cheap));
    if plain {
        report.figure("cpu_per_gib_ratio_copy", worst(&against_copy, Better::Lower));
        report.figure("cpu_per_gib_ratio_copy_mean", mean(&against_copy));
    }
    Ok(report)
}

/// How long `bytes` took over all connections of the case together, and the proxy's processor time for them.
pub fn transfer(
    proxy: &Proxy,
    dialler: &Dialler,
    far: &Far,
    case: Case,
    bytes: u64,
) -> anyhow::Result<(Duration, Duration)> {
    let share = bytes / case.connections as u64;
    let ready = Barrier::new(case.connections + 1);
    let go = Barrier::new(case.connections + 1);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..case.connections)
            .map(|_| scope.spawn(|| client(proxy.port, dialler, case.down, share, &ready, &go)))
            .collect();
        ready.wait();
        let (began, before) = (Instant::now(), proxy.cpu()?);
        go.wait();
        let mut last = began;
        let mut clients = clients.into_iter();
        if !case.down {
            for _ in 0..case.connections {
                last = last.max(far.taken()?);
            }
            let cpu = proxy.cpu()?;
            clients.try_for_each(|client| joined(client).map(drop))?;
            return Ok((last - began, cpu.saturating_sub(before)));
        }
        for client in clients {
            last = last.max(joined(client)?.0);
        }
        Ok((last - began, proxy.cpu()?.saturating_sub(before)))
    })
}

fn joined<T>(client: std::thread::ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?
}

fn client(
    port: u16,
    dialler: &Dialler,
    down: bool,
    share: u64,
    ready: &Barrier,
    go: &Barrier,
) -> anyhow::Result<(Instant, Near)> {
    // Whatever comes of it, the others must not wait for ever.
    let prepared = prepare(port, dialler, down, share);
    ready.wait();
    go.wait();
    let (mut near, sealed) = prepared?;
    near.send(&sealed)?;
    if down {
        near.count(share)?;
    }
    // Closed by the caller: closing before the far end has all would cut the tunnel, for tickets lie unread.
    Ok((Instant::now(), near))
}

/// A connection and the bytes to send at the start: the order, or all that goes up.
fn prepare(port: u16, dialler: &Dialler, down: bool, share: u64) -> anyhow::Result<(Near, Vec<u8>)> {
    let order = if down { Order::Down(share) } else { Order::Up(share) };
    let mut near = dialler.dial(port)?;
    let mut sealed = near.sealed(&order.to_bytes())?;
    if !down {
        near.send(&sealed)?;
        sealed = near.sealed(&vec![7; share as usize])?;
    }
    Ok((near, sealed))
}
