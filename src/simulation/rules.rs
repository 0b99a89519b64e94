//! The rules whose absence the simulation must notice. All hold in a world that is to be sound. The tests take one away at a
//! time, let happen what it protects from, and expect the judge to see the harm, which with the rule is not done.

use std::time::Duration;

use super::{
    chance::Chance,
    faults::{Fault, Plan},
    node::Daemon,
    tests::{run, shown},
};

/// What is kept to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What a node's daemons write names the epoch that they live in.
    pub epochs: bool,
    /// A take-over names the lease and the epoch that were seen to stand still.
    pub as_seen: bool,
    /// A shim holds the locks of its VM's home.
    pub locks: bool,
    /// An observer knows when it was itself deaf.
    pub deafness: bool,
    /// What a sign of life is worth less than others wait.
    pub margin: Duration,
    /// A machine is restarted when what must be dead does not die.
    pub reboot: bool,
    /// Claims whose answer was lost are taken up.
    pub recovery: bool,
    /// Of what an earlier life left nothing is published.
    pub strays: bool,
    /// Only what is said to be on its way down is said to be stopped.
    pub downward: bool,
    /// An end that the database does not take makes its node read what is on record.
    pub doubt: bool,
    /// Who gives a VM up minds whether it is still his.
    pub disowning: bool,
    /// A router that the database has forgotten begins anew.
    pub anew: bool,
    /// A router ends sessions that are on record as its own and that it does not know.
    pub returns: bool,
    /// Whoever hears nothing polls.
    pub polls: bool,
}

impl Rules {
    pub const ALL: Self = Self {
        epochs: true,
        as_seen: true,
        locks: true,
        deafness: true,
        margin: Duration::from_secs(2),
        reboot: true,
        recovery: true,
        strays: true,
        downward: true,
        doubt: true,
        disowning: true,
        anew: true,
        returns: true,
        polls: true,
    };
}

/// Worlds that one trouble is tried in.
const WORLDS: u64 = 400;

/// Expects harm without a rule where there is none with it. A plan is drawn for each world.
#[track_caller]
fn finds(rules: Rules, plan: fn(&mut Chance) -> Plan, what: &str) {
    let plan_of = |seed: u64| plan(&mut Chance::new(!seed));
    let harmed = (1..=WORLDS).find_map(|seed| Some((seed, run(seed, rules, &plan_of(seed), false).violation?)));
    let Some((seed, harm)) = harmed else { panic!("nothing is found") };
    if !harm.contains(what) {
        shown(seed, rules, &plan_of(seed));
        panic!("seed {seed}: {harm}");
    }
    if run(seed, Rules::ALL, &plan_of(seed), false).violation.is_some() {
        let harm = shown(seed, Rules::ALL, &plan_of(seed));
        panic!("seed {seed}, with all rules: {harm:?}");
    }
}

#[test]
fn a_simulation_without_a_margin_finds_a_desktop_that_comes_to_harm() {
    let plan = |_: &mut Chance| {
        let drift = |node: usize, rate| (9000, Fault::Drift(node, rate), 60_000);
        vec![drift(0, 970_000), drift(1, 1_030_000), drift(2, 1_030_000), (15_000, Fault::CutBoth(0), 30_000)]
    };
    finds(Rules { margin: Duration::ZERO, ..Rules::ALL }, plan, "is given up while VM");
}

#[test]
fn a_simulation_in_which_observers_do_not_know_that_they_are_deaf_finds_a_node_that_is_given_up_alive() {
    let plan = |_: &mut Chance| vec![(15_000, Fault::CutBoth(2), 30_000)];
    finds(Rules { deafness: false, ..Rules::ALL }, plan, "is given up, and");
}

/// A node that comes back at the last moment.
#[test]
fn a_simulation_in_which_a_take_over_does_not_say_what_it_saw_finds_a_node_that_is_given_up_alive() {
    let plan = |chance: &mut Chance| {
        let mut plan = vec![(9000, Fault::Stop(0, Daemon::Keeper), 60_000)];
        for round in 0..4 {
            plan.push((15_000 + round * 13_000, Fault::CutDatabase(0), chance.between(8000, 11_000)));
        }
        plan
    };
    finds(Rules { as_seen: false, ..Rules::ALL }, plan, "is given up, and renewed");
}

#[test]
fn a_simulation_without_epochs_finds_a_node_that_does_not_know_that_it_was_given_up() {
    finds(Rules { epochs: false, ..Rules::ALL }, |_| vec![(15_000, Fault::StopAll(1), 25_000)], "is on record as lost");
}

#[test]
fn a_simulation_without_locks_finds_a_desktop_that_lives_twice() {
    let plan = |_: &mut Chance| vec![(15_000, Fault::StopAll(1), 25_000), (30_000, Fault::StopAll(2), 25_000)];
    finds(Rules { locks: false, ..Rules::ALL }, plan, "lives");
}

#[test]
fn a_simulation_in_which_machines_are_not_restarted_finds_a_desktop_that_lives_when_it_must_not() {
    let plan = |_: &mut Chance| vec![(12_000, Fault::Undying(1), 30_000), (15_000, Fault::CutBoth(1), 40_000)];
    finds(Rules { reboot: false, ..Rules::ALL }, plan, "lives");
}

/// Everything that was written of late is lost again and again.
fn lags() -> Plan {
    (12..60).step_by(4).map(|second| (second * 1000, Fault::StandbyLags, 800)).collect()
}

#[test]
fn a_simulation_in_which_lost_claims_are_not_taken_up_finds_a_desktop_that_starts_for_ever() {
    finds(Rules { recovery: false, ..Rules::ALL }, |_| lags(), "for ever");
}

#[test]
fn a_simulation_in_which_nobody_polls_finds_a_command_that_nobody_takes() {
    let plan = |_: &mut Chance| (0..3).map(|node| (60_000, Fault::Deaf(node), 9_000)).collect();
    finds(Rules { polls: false, ..Rules::ALL }, plan, "waits for a command");
}

/// A node is given up and finds what is left of its VMs, which is slow to go, when users want them again.
#[test]
fn a_simulation_in_which_leftovers_are_published_finds_the_end_of_a_life_that_has_not_begun() {
    let plan = |_: &mut Chance| {
        let again = |second: u64| {
            let at = second * 1000;
            [
                (at, Fault::StopAll(1), 14_000),
                (at + 14_000, Fault::Unclean(1), 1),
                (at + 14_001, Fault::SlowStorage(1), 8000),
            ]
        };
        [12, 40].into_iter().flat_map(again).collect()
    };
    finds(Rules { strays: false, ..Rules::ALL }, plan, "is said to end before it begins");
}

/// Desktops end, and at once are wanted again, on the only node.
#[test]
fn a_simulation_in_which_any_desktop_is_said_to_have_stopped_finds_the_end_of_a_life_that_has_not_begun() {
    let plan = |_: &mut Chance| {
        let often = |at: u64| [(at, Fault::EndsByItself(1), 1), (at + 150, Fault::Crowd, 1)];
        let off = [(9000, Fault::PowerOff(0), 60_000), (9000, Fault::PowerOff(2), 60_000)];
        off.into_iter().chain((15_000..60_000).step_by(300).flat_map(often)).collect()
    };
    finds(Rules { downward: false, ..Rules::ALL }, plan, "is said to end before it begins");
}

/// It is lost that a desktop was on its way down, which takes so long that the node has read its record once more.
#[test]
fn a_simulation_in_which_an_end_that_is_not_taken_is_not_doubted_finds_a_desktop_whose_state_is_wrong() {
    let plan = |chance: &mut Chance| {
        let mut plan = vec![(30_000 + chance.between(6000, 12_000), Fault::StandbyLags, 800)];
        for node in 0..3 {
            plan.push((30_000, Fault::MuteAgent(node), 1));
            plan.push((30_000, Fault::Undying(node), 1));
        }
        plan
    };
    finds(Rules { doubt: false, ..Rules::ALL }, plan, "is said to run");
}

#[test]
fn a_simulation_in_which_forgotten_routers_do_not_begin_anew_finds_a_user_who_is_not_served() {
    let plan = |_: &mut Chance| {
        let kills =
            (12..60).step_by(4).map(|second| (second * 1000 - 2000, Fault::Kill(second as usize % 3, Daemon::L7r), 1));
        lags().into_iter().chain(kills).collect()
    };
    finds(Rules { anew: false, ..Rules::ALL }, plan, "was asked for");
}

#[test]
fn a_simulation_in_which_sessions_that_nobody_knows_are_not_ended_finds_one() {
    finds(Rules { returns: false, ..Rules::ALL }, |_| lags(), "VM");
}

#[test]
fn a_simulation_in_which_the_homes_of_others_are_given_up_finds_one() {
    let plan = |_: &mut Chance| {
        vec![
            (12_000, Fault::SlowStorage(0), 50_000),
            (15_000, Fault::Freeze(0), 25_000),
            (30_000, Fault::Freeze(2), 25_000),
        ]
    };
    finds(Rules { disowning: false, ..Rules::ALL }, plan, "VM");
}
