//! Runs worlds, and when one is not sound says how it came about. `QVD_SEED` begins with that seed, `QVD_SEEDS` says how
//! many follow, `QVD_TRACE` how many lines of what happened are shown.

use std::{
    panic::catch_unwind,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    chance::{Chance, Millis},
    faults::{Plan, plan},
    rules::Rules,
    world::{Event, World},
};

const NODES: usize = 3;
const VMS: usize = 3;
/// Until when things go wrong; how long it may take then until nothing is on its way any more; how long a start may take.
const TROUBLE: Millis = 70_000;
const REST: Millis = 60_000;
const START: Millis = 30_000;

/// What a world came to.
pub struct Outcome {
    pub violation: Option<String>,
    trace: Vec<(Millis, String)>,
}

/// Lets a world happen. A panic of what decides is not sound either.
pub fn run(seed: u64, rules: Rules, plan: &Plan, traced: bool) -> Outcome {
    let outcome = catch_unwind(|| happen(seed, rules, plan, traced));
    outcome.unwrap_or_else(|_| Outcome { violation: Some("it panics".to_owned()), trace: Vec::new() })
}

fn happen(seed: u64, rules: Rules, plan: &Plan, traced: bool) -> Outcome {
    let mut world = World::new(Chance::new(seed), rules, NODES, VMS, traced);
    for (at, fault, lasts) in plan {
        world.schedule.at(*at, Event::Fault(*fault));
        world.schedule.at(*at + *lasts, Event::Mend(*fault));
    }
    world.schedule.at(3000, Event::Administrate);
    world.schedule.at(4000, Event::Visit);
    world.run(TROUBLE);
    if world.violation.is_none() {
        world.calm_down();
        world.run(TROUBLE + REST);
    }
    if world.violation.is_none() {
        world.judge_rest();
        world.ask_for_all();
        world.run(TROUBLE + REST + START);
    }
    if world.violation.is_none() {
        world.judge_all_run();
    }
    Outcome { violation: world.violation, trace: world.trace.unwrap_or_default() }
}

fn plan_of(seed: u64) -> Plan {
    plan(&mut Chance::new(!seed), NODES, TROUBLE)
}

fn setting<T: FromStr>(name: &str, otherwise: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

/// The first seed of so many in whose world something is found. Both processors look.
fn find(first: u64, count: u64) -> Option<u64> {
    let (next, found) = (AtomicU64::new(first), AtomicU64::new(u64::MAX));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= first + count || seed >= found.load(Relaxed) {
                        return;
                    }
                    if run(seed, Rules::ALL, &plan_of(seed), false).violation.is_some() {
                        found.fetch_min(seed, Relaxed);
                    }
                }
            });
        }
    });
    Some(found.into_inner()).filter(|seed| *seed != u64::MAX)
}

/// The faults without which it would not be found.
fn shrunk(seed: u64) -> Plan {
    let mut plan = plan_of(seed);
    let mut index = 0;
    while index < plan.len() {
        let mut fewer = plan.clone();
        fewer.remove(index);
        match run(seed, Rules::ALL, &fewer, false).violation {
            Some(_) => plan = fewer,
            None => index += 1,
        }
    }
    plan
}

/// Shows how it comes about; what is found.
pub fn shown(seed: u64, rules: Rules, plan: &Plan) -> Option<String> {
    let Outcome { violation, trace } = run(seed, rules, plan, true);
    for (at, text) in trace.iter().skip(trace.len().saturating_sub(setting("QVD_TRACE", 120))) {
        eprintln!("{:>9.3} {text}", *at as f64 / 1000.0);
    }
    violation
}

#[test]
fn whatever_happens_the_cluster_is_sound() {
    let Some(seed) = find(setting("QVD_SEED", 1), setting("QVD_SEEDS", 3000)) else { return };
    let plan = shrunk(seed);
    let violation = shown(seed, Rules::ALL, &plan);
    panic!(
        "{}; after {plan:?}. To see it again: QVD_SEED={seed} QVD_SEEDS=1 cargo test --lib simulation::tests::whatever",
        violation.unwrap_or_default()
    );
}

#[test]
fn a_seed_happens_again_exactly_as_it_did() {
    for seed in 1..30 {
        let again = || run(seed, Rules::ALL, &plan_of(seed), true).trace;
        let first = again();
        assert!(first.len() > 50);
        assert_eq!(first, again());
    }
}
