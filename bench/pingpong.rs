//! What a tunnel adds to the time of an exchange over a direct connection: 64 bytes there and back, and what NX does,
//! many small messages up and a burst down.

use std::time::Instant;

use crate::{
    ends::{Dialler, Far, Near, Order},
    pairs::{Better, Rounds},
    proxy::{Kind, Workshop, stand_aside},
    report::{Report, Samples},
};

/// An exchange: the sizes of what the client sends, one packet each, and what it gets back.
struct Trace {
    name: &'static str,
    up: &'static [usize],
    down: u32,
    pieces: u32,
}

const TRACES: [Trace; 2] = [
    Trace { name: "echo", up: &[64], down: 64, pieces: 1 },
    Trace { name: "nx", up: &[24, 16, 32, 24, 48, 16, 24, 96, 24, 16, 32, 64], down: 24 * 1024, pieces: 6 },
];

/// What is told of a trace: the median and the slowest of a hundred.
const SHARES: [(&str, f64); 2] = [("p50", 0.5), ("p99", 0.99)];

pub fn run(repetitions: usize, plain: bool, exchanges: u32) -> anyhow::Result<Report> {
    stand_aside()?;
    let workshop = Workshop::open(64)?;
    let far = Far::open()?;
    let through = Dialler::new(!plain)?;
    let direct = Dialler::new(false)?;
    let peers: &[Kind] = if plain { &[Kind::HaProxy] } else { &[Kind::HaProxy, Kind::Nginx, Kind::Stunnel] };
    let kinds: Vec<Kind> = [Kind::Ours].into_iter().chain(peers.iter().copied()).collect();
    let proxies = kinds.iter().map(|kind| workshop.start(*kind, far.port, !plain)).collect::<Result<Vec<_>, _>>()?;
    let mut report = Report { scenario: "pingpong", repetitions, ..Report::default() };
    let mut overall = [Vec::new(), Vec::new()];
    for trace in TRACES {
        let mut added = [Rounds::default(), Rounds::default()];
        let mut floors = [Vec::new(), Vec::new()];
        for round in 0..=repetitions {
            let floor = measure(&direct, far.port, &trace, exchanges)?;
            for turn in 0..proxies.len() {
                let proxy = &proxies[(round + turn) % proxies.len()];
                let samples = measure(&through, proxy.port, &trace, exchanges)?;
                for (index, (_, share)) in SHARES.iter().enumerate() {
                    if round > 0 {
                        added[index].add(proxy.kind, (samples.us(*share) - floor.us(*share)).max(0.1));
                    }
                }
            }
            for (index, (_, share)) in SHARES.iter().enumerate() {
                floors[index].push(floor.us(*share));
            }
        }
        for (index, (share, _)) in SHARES.iter().enumerate() {
            let (name, added) = (trace.name, &added[index]);
            let ratio = added.ratio_to_best(peers, Better::Lower);
            overall[index].push(ratio);
            report.figure(format!("{name}_added_{share}_ratio"), ratio);
            report.figure(format!("{name}_added_{share}_us"), added.median(Kind::Ours));
            report.spread.insert(format!("{name}_added_{share}_us"), added.spread(Kind::Ours).into_iter().collect());
            for peer in peers {
                report.peer(&peer.to_string(), format!("{name}_added_{share}_us"), added.median(*peer));
            }
            let floor = crate::pairs::median(std::mem::take(&mut floors[index]));
            report.peer("direct", format!("{name}_{share}_us"), floor);
        }
    }
    for (index, (share, _)) in SHARES.iter().enumerate() {
        report.figure(format!("added_{share}_ratio"), crate::pairs::worst(&overall[index], Better::Lower));
    }
    Ok(report)
}

fn measure(dialler: &Dialler, port: u16, trace: &Trace, exchanges: u32) -> anyhow::Result<Samples> {
    let up = trace.up.iter().sum::<usize>() as u32;
    let mut near = dialler.dial(port)?;
    let order = near.sealed(&Order::Answer { up, down: trace.down, pieces: trace.pieces }.to_bytes())?;
    near.send(&order)?;
    near.take_tickets()?;
    let mut samples = Samples::default();
    for number in 0..exchanges + exchanges / 10 {
        let took = exchange(&mut near, trace)?;
        if number >= exchanges / 10 {
            samples.add(took);
        }
    }
    Ok(samples)
}

fn exchange(near: &mut Near, trace: &Trace) -> anyhow::Result<std::time::Duration> {
    let began = Instant::now();
    for size in trace.up {
        let sealed = near.sealed(&[7; 128][..*size])?;
        near.send(&sealed)?;
    }
    near.count(u64::from(trace.down))?;
    Ok(began.elapsed())
}
