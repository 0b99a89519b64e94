use std::collections::{BTreeSet, HashSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::{
    hypervisor::Exit,
    model::{Expiry, VmCommand},
};

const LIMITS: Limits = Limits {
    slot: Duration::from_secs(900),
    prepare: Duration::from_secs(600),
    launch: Duration::from_secs(120),
    boot: Duration::from_secs(180),
    boot_count: 40,
    ping_ok: Duration::from_secs(120),
    ping_error: Duration::from_secs(10),
    dead_after: Duration::from_secs(320),
    dead_count: 10,
    ask_pause: Duration::from_secs(5),
    ask_retries: 3,
    shutdown: Duration::from_secs(180),
    kill: Duration::from_secs(120),
    clean: Duration::from_secs(120),
    zombie: Duration::from_secs(60),
    debug: false,
};

fn after(events: &[Event], now: Instant) -> Machine {
    let (mut machine, _) = Machine::start(true, &LIMITS, now);
    for event in events {
        machine.step(event.clone(), &LIMITS, now);
    }
    machine
}

fn running(now: Instant) -> Machine {
    let machine = after(&[Event::Slot, Event::Prepared(Ok(())), Event::Launched(Ok(())), Event::Pinged(Ok(()))], now);
    assert_eq!(machine.phase(), Phase::Running);
    machine
}

fn stopping(now: Instant) -> Machine {
    let mut machine = running(now);
    assert_eq!(machine.step(Event::Stop, &LIMITS, now), [Effect::AskSlot(Purpose::Stop)]);
    assert_eq!(machine.step(Event::Slot, &LIMITS, now), [Effect::PowerOff]);
    machine
}

#[test]
fn a_start_goes_through_its_phases_and_frees_its_slot_when_it_runs() {
    let now = Instant::now();
    let (mut machine, effects) = Machine::start(true, &LIMITS, now);
    assert_eq!(effects, [Effect::AskSlot(Purpose::Start)]);
    assert_eq!(machine.step(Event::Slot, &LIMITS, now), [Effect::Prepare]);
    assert_eq!(machine.step(Event::Prepared(Ok(())), &LIMITS, now), [Effect::Launch]);
    assert_eq!(
        machine.step(Event::Launched(Ok(())), &LIMITS, now),
        [Effect::WatchExit, Effect::Ping(Some(BOOT_PING_LIMIT))]
    );
    let effects = machine.step(Event::Pinged(Ok(())), &LIMITS, now);
    assert_eq!(effects, [Effect::FreeSlot, Effect::Publish(VmState::Running, None)]);
}

#[test]
fn a_stop_powers_off_and_reports_only_when_everything_is_freed() {
    let now = Instant::now();
    let mut machine = stopping(now);
    assert_eq!(machine.step(Event::PoweredOff(Ok(())), &LIMITS, now), []);
    assert_eq!(machine.step(Event::Exited(Exit::Status(0)), &LIMITS, now), [Effect::Clean]);
    let effects = machine.step(Event::Cleaned(Ok(())), &LIMITS, now);
    assert_eq!(effects, [Effect::FreeSlot, Effect::Publish(VmState::Stopped, None)]);
}

#[test]
fn a_stop_that_gets_no_slot_goes_on_without_one() {
    let now = Instant::now();
    let mut machine = running(now);
    machine.step(Event::Stop, &LIMITS, now);
    let effects = machine.step(Event::Tick, &LIMITS, now + LIMITS.shutdown);
    assert_eq!(effects, [Effect::FreeSlot, Effect::PowerOff]);
}

#[test]
fn who_does_not_take_the_order_is_asked_again_then_by_its_power_button_and_then_killed() {
    let mut now = Instant::now();
    let gone = || Event::PoweredOff(Err("gone".into()));
    let mut machine = stopping(now);
    for _ in 0..LIMITS.ask_retries {
        assert_eq!(machine.step(gone(), &LIMITS, now), []);
        now += LIMITS.ask_pause;
        assert_eq!(machine.step(Event::Tick, &LIMITS, now), [Effect::PowerOff]);
    }
    assert_eq!(machine.step(gone(), &LIMITS, now), [Effect::PressPowerButton]);
    let mut pressed = machine.clone();
    assert_eq!(pressed.step(Event::PoweredOff(Ok(())), &LIMITS, now), []);
    assert_eq!(pressed.step(Event::Tick, &LIMITS, now + LIMITS.shutdown), [Effect::Kill]);
    assert_eq!(machine.step(gone(), &LIMITS, now), [Effect::Kill], "it has none");
    let mut machine = after(&[Event::Slot, Event::Prepared(Ok(())), Event::Launched(Ok(()))], now);
    assert_eq!(machine.step(Event::Stop, &LIMITS, now), [Effect::PowerOff]);
    assert_eq!(machine.step(gone(), &LIMITS, now), [Effect::Kill], "it never answered");
}

#[test]
fn a_dead_agent_ends_the_vm_only_after_many_failures_and_a_long_silence() {
    let now = Instant::now();
    let mut machine = running(now);
    for n in 1..=32 {
        let at = now + LIMITS.ping_error * n;
        assert_eq!(machine.step(Event::Pinged(Err("no".into())), &LIMITS, at), [], "{n}");
    }
    let effects = machine.step(Event::Pinged(Err("no".into())), &LIMITS, now + Duration::from_secs(330));
    assert!(matches!(&effects[..], [Effect::Publish(VmState::Stopping, Some(_)), Effect::Kill]), "{effects:?}");
}

#[test]
fn a_vm_that_is_kept_for_inspection_runs_again_when_its_agent_is_back_and_can_be_stopped() {
    let now = Instant::now();
    let limits = Limits { debug: true, dead_count: 1, ..LIMITS };
    let late = now + LIMITS.dead_after * 2;
    let mut machine = running(now);
    let effects = machine.step(Event::Pinged(Err("no".into())), &limits, late);
    assert!(matches!(&effects[..], [Effect::Publish(VmState::Debugging, Some(_))]), "{effects:?}");
    assert_eq!(machine.step(Event::Tick, &limits, late + LIMITS.ping_error), [Effect::Ping(None)]);
    let mut back = machine.clone();
    let effects = back.step(Event::Pinged(Ok(())), &limits, late);
    assert_eq!(effects, [Effect::Publish(VmState::Running, None)]);
    assert_eq!(machine.step(Event::Stop, &limits, late), [Effect::AskSlot(Purpose::Stop)]);
}

#[test]
fn a_long_silence_with_few_failures_is_a_daemon_that_did_not_ask() {
    let now = Instant::now();
    let mut machine = running(now);
    let asleep = now + LIMITS.dead_after * 10;
    assert_eq!(machine.step(Event::Pinged(Err("no".into())), &LIMITS, asleep), []);
    let mut machine = after(&[Event::Slot, Event::Prepared(Ok(())), Event::Launched(Ok(()))], now);
    let asleep = now + LIMITS.boot * 10;
    assert!(!machine.step(Event::Tick, &LIMITS, asleep).contains(&Effect::Kill));
    for n in 1..LIMITS.boot_count {
        assert_eq!(machine.step(Event::Pinged(Err("no".into())), &LIMITS, asleep), [], "{n}");
    }
    let effects = machine.step(Event::Pinged(Err("no".into())), &LIMITS, asleep);
    assert_eq!(effects, [Effect::Publish(VmState::Stopping, None), Effect::Kill]);
}

#[test]
fn a_booting_vm_whose_pings_never_report_is_given_up_too() {
    let now = Instant::now();
    let mut machine = after(&[Event::Slot, Event::Prepared(Ok(())), Event::Launched(Ok(()))], now);
    machine.step(Event::Tick, &LIMITS, now + LIMITS.boot);
    let effects = machine.step(Event::Tick, &LIMITS, now + LIMITS.boot * 2);
    assert_eq!(effects, [Effect::Publish(VmState::Stopping, None), Effect::Kill]);
}

#[test]
fn a_crash_is_cleaned_and_its_reason_published() {
    let now = Instant::now();
    let mut machine = running(now);
    assert_eq!(machine.step(Event::Exited(Exit::Signal(9)), &LIMITS, now), [Effect::Clean]);
    let effects = machine.step(Event::Cleaned(Ok(())), &LIMITS, now);
    let reason = "it ended by itself: it was killed by signal 9".to_owned();
    assert_eq!(effects, [Effect::Publish(VmState::Stopped, Some(reason))]);
}

#[test]
fn what_cannot_be_cleaned_is_a_zombie_without_a_slot_and_is_tried_again() {
    let now = Instant::now();
    let mut machine = stopping(now);
    machine.step(Event::Exited(Exit::Unseen), &LIMITS, now);
    let effects = machine.step(Event::Cleaned(Err("busy".into())), &LIMITS, now);
    assert!(matches!(&effects[..], [Effect::FreeSlot, _, Effect::Publish(VmState::Zombie, Some(_))]));
    let later = now + LIMITS.zombie;
    assert_eq!(machine.step(Event::Tick, &LIMITS, later), [Effect::WatchExit, Effect::Kill]);
}

#[test]
fn a_stop_before_the_launch_is_carried_out_at_once_and_during_it_when_it_has_ended() {
    let now = Instant::now();
    let mut machine = after(&[Event::Slot], now);
    assert_eq!(machine.step(Event::Stop, &LIMITS, now), [Effect::Abandon, Effect::Clean]);
    let effects = machine.step(Event::Cleaned(Ok(())), &LIMITS, now);
    assert!(matches!(&effects[..], [Effect::FreeSlot, Effect::Publish(VmState::Stopped, Some(_))]));
    let mut machine = after(&[Event::Slot, Event::Prepared(Ok(()))], now);
    assert_eq!(machine.step(Event::Stop, &LIMITS, now), []);
    assert_eq!(machine.step(Event::Launched(Ok(())), &LIMITS, now), [Effect::WatchExit, Effect::Kill]);
}

#[test]
fn a_step_that_never_reports_is_given_up_in_time() {
    let now = Instant::now();
    let mut preparing = after(&[Event::Slot], now);
    let effects = preparing.step(Event::Tick, &LIMITS, now + LIMITS.prepare);
    assert_eq!(effects, [Effect::Abandon, Effect::Clean]);
    let mut launching = after(&[Event::Slot, Event::Prepared(Ok(()))], now);
    let effects = launching.step(Event::Tick, &LIMITS, now + LIMITS.launch);
    let stopping = Effect::Publish(VmState::Stopping, None);
    assert_eq!(effects, [stopping, Effect::Abandon, Effect::WatchExit, Effect::Kill]);
    let later = now + LIMITS.prepare + LIMITS.clean;
    let effects = preparing.step(Event::Tick, &LIMITS, later);
    assert!(matches!(&effects[..], [Effect::Abandon, Effect::FreeSlot, _, Effect::Publish(VmState::Zombie, _)]));
}

#[test]
fn what_the_database_forgot_is_put_on_record_unless_it_is_on_its_way_down() {
    let now = Instant::now();
    assert_eq!(after(&[], now).step(Event::Forgotten, &LIMITS, now), [Effect::PutOnRecord]);
    assert_eq!(running(now).step(Event::Forgotten, &LIMITS, now), [Effect::PutOnRecord]);
    assert_eq!(stopping(now).step(Event::Forgotten, &LIMITS, now), []);
    let mut to_end = after(&[Event::Slot, Event::Prepared(Ok(())), Event::Stop], now);
    assert_eq!(to_end.step(Event::Forgotten, &LIMITS, now), []);
}

fn expiry() -> Expiry {
    Expiry { soft: "2030-01-01T00:00:00".into(), hard: String::new() }
}

#[test]
fn an_expiry_is_told_while_the_agent_answers_and_again_until_it_knows() {
    let now = Instant::now();
    let told = Effect::TellExpiry(expiry());
    let mut machine = after(&[Event::Slot, Event::Prepared(Ok(())), Event::Launched(Ok(()))], now);
    assert_eq!(machine.step(Event::Expires(expiry()), &LIMITS, now), []);
    assert_eq!(machine.step(Event::Pinged(Ok(())), &LIMITS, now).last(), Some(&told));
    assert_eq!(machine.step(Event::Expires(expiry()), &LIMITS, now), [], "it is under way");
    machine.step(Event::ToldExpiry(Err("no".into())), &LIMITS, now);
    let again = now + LIMITS.ask_pause;
    assert_eq!(machine.wake_at(), Some(again));
    assert_eq!(machine.step(Event::Tick, &LIMITS, again), std::slice::from_ref(&told));
    machine.step(Event::ToldExpiry(Ok(())), &LIMITS, again);
    assert_eq!(machine.wake_at(), Some(now + LIMITS.ping_ok));
    assert_eq!(machine.step(Event::Expires(expiry()), &LIMITS, again), [told], "a reminder");
}

#[test]
fn an_expiry_that_is_set_while_another_is_told_is_told_next() {
    let now = Instant::now();
    let newer = Expiry { hard: "2030-02-01T00:00:00".into(), ..expiry() };
    for first in [Ok(()), Err("no".into())] {
        let mut machine = running(now);
        assert_eq!(machine.step(Event::Expires(expiry()), &LIMITS, now), [Effect::TellExpiry(expiry())]);
        assert_eq!(machine.step(Event::Expires(newer.clone()), &LIMITS, now), [], "one thing at a time");
        assert_eq!(machine.step(Event::ToldExpiry(first), &LIMITS, now), [Effect::TellExpiry(newer.clone())]);
        assert_eq!(machine.step(Event::ToldExpiry(Ok(())), &LIMITS, now), []);
        assert_eq!(machine.step(Event::Expires(newer.clone()), &LIMITS, now), [Effect::TellExpiry(newer.clone())]);
    }
}

/// What may happen, once well and once badly.
fn every_event() -> Vec<Event> {
    let no = || Err("no".to_owned());
    vec![
        Event::Slot,
        Event::Prepared(Ok(())),
        Event::Prepared(no()),
        Event::Launched(Ok(())),
        Event::Launched(no()),
        Event::Pinged(Ok(())),
        Event::Pinged(no()),
        Event::PoweredOff(Ok(())),
        Event::PoweredOff(no()),
        Event::Exited(Exit::Unseen),
        Event::Cleaned(Ok(())),
        Event::Cleaned(no()),
        Event::Stop,
        Event::Kill,
        Event::Forgotten,
        Event::Expires(expiry()),
        Event::ToldExpiry(Ok(())),
        Event::ToldExpiry(no()),
        Event::Tick,
    ]
}

/// The word of the diagram.
fn word(event: &Event) -> &'static str {
    match event {
        Event::Slot => "slot",
        Event::Prepared(Ok(())) => "ready",
        Event::Launched(Ok(())) => "launched",
        Event::Pinged(Ok(())) => "answer",
        Event::Pinged(Err(_)) => "silence",
        Event::PoweredOff(Err(_)) => "refused",
        Event::Exited(_) => "exit",
        Event::Cleaned(Ok(())) => "freed",
        Event::Prepared(Err(_)) | Event::Launched(Err(_)) | Event::Cleaned(Err(_)) => "failed",
        Event::Stop => "stop",
        Event::Kill => "kill",
        Event::Tick => "late",
        Event::PoweredOff(Ok(())) | Event::Forgotten | Event::Expires(_) | Event::ToldExpiry(_) => "-",
    }
}

/// Every arrow that the machine can go, found by trying every event, at once and late, in every state.
fn explored() -> BTreeSet<(String, &'static str, String)> {
    let mut arrows = BTreeSet::new();
    for (has_agent, debug) in [(true, false), (true, true), (false, false)] {
        let limits = Limits { debug, boot_count: 1, dead_count: 1, ask_retries: 1, ..LIMITS };
        let now = Instant::now();
        let (mut known, mut to_try) = (HashSet::new(), VecDeque::new());
        to_try.push_back((Machine::start(has_agent, &limits, now).0, now));
        for (published, alive) in VmState::ALL.iter().flat_map(|state| [(*state, true), (*state, false)]) {
            to_try.push_back((Machine::adopt(published, alive, has_agent, &limits, now).0, now));
        }
        while let Some((machine, now)) = to_try.pop_front() {
            let Machine { phase, slot, overtime, .. } = machine;
            if !known.insert((
                phase,
                slot,
                overtime,
                machine.reason.is_some(),
                machine.failures.min(1),
                machine.retries,
                machine.button,
            )) {
                continue;
            }
            for event in every_event() {
                for now in [now, now + Duration::from_secs(3600)] {
                    let mut next = machine.clone();
                    next.step(event.clone(), &limits, now);
                    if next.phase() != phase {
                        arrows.insert((format!("{phase:?}"), word(&event), format!("{:?}", next.phase())));
                    }
                    to_try.push_back((next, now));
                }
            }
        }
    }
    arrows
}

#[test]
fn the_diagram_in_the_documents_shows_what_the_machine_does() {
    let drawn: BTreeSet<_> = crate::model::diagram::arrows("The life of a VM on its node")
        .into_iter()
        .flat_map(|arrow| arrow.words.into_iter().map(move |word| (arrow.from.clone(), word, arrow.to.clone())))
        .collect();
    let done: BTreeSet<_> = explored().into_iter().map(|(from, word, to)| (from, word.to_owned(), to)).collect();
    let missing: Vec<_> = done.difference(&drawn).collect();
    let invented: Vec<_> = drawn.difference(&done).collect();
    assert!(missing.is_empty() && invented.is_empty(), "not drawn: {missing:?}\ndrawn, but not so: {invented:?}");
}

fn events() -> impl Strategy<Value = Event> {
    proptest::sample::select(every_event())
}

/// What is around a machine: the queue for slots, and who listens to the database.
struct World {
    published: VmState,
    asking: bool,
    holding: bool,
}

impl World {
    fn carry_out(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::AskSlot(_) => {
                    assert!(!self.asking && !self.holding, "one slot is enough");
                    self.asking = true;
                }
                Effect::FreeSlot => {
                    assert!(self.asking || self.holding, "what it has not it cannot free");
                    (self.asking, self.holding) = (false, false);
                }
                Effect::Publish(state, _) if published_from(*state).contains(&self.published) => {
                    self.published = *state;
                }
                _ => {}
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_states_follow_the_table_slots_are_kept_count_of_and_nothing_waits_for_ever(
        events in proptest::collection::vec((events(), 0u64..400), 0..60), debug: bool, has_agent: bool,
    ) {
        let limits = Limits { debug, ..LIMITS };
        let mut now = Instant::now();
        let (mut machine, effects) = Machine::start(has_agent, &limits, now);
        let mut world = World { published: VmState::Starting, asking: false, holding: false };
        world.carry_out(&effects);
        for (event, seconds) in events {
            now += Duration::from_secs(seconds);
            if matches!(event, Event::Slot) && !std::mem::take(&mut world.asking) {
                continue;
            }
            world.holding |= matches!(event, Event::Slot);
            if matches!(event, Event::Stop | Event::Kill) && world.published.accepts(VmCommand::Stop) {
                world.published = VmState::Stopping; // as the claim of the command does
            }
            world.carry_out(&machine.step(event, &limits, now));
            prop_assert_eq!(machine.slot, world.holding);
            match machine.phase() {
                Phase::Waiting | Phase::WaitingToStop => prop_assert!(world.asking),
                Phase::Preparing | Phase::Launching => prop_assert!(world.holding),
                Phase::Zombie => prop_assert_eq!(world.published, VmState::Zombie),
                Phase::Running => prop_assert_eq!(world.published, VmState::Running),
                Phase::Gone => prop_assert_eq!(world.published, VmState::Stopped),
                _ => {}
            }
            let at_rest = matches!(machine.phase(), Phase::Running | Phase::Debugging | Phase::Gone);
            if at_rest || machine.phase() == Phase::Zombie {
                prop_assert!(!world.asking && !world.holding);
            }
            prop_assert!(at_rest || machine.deadline.is_some(), "{:?} waits for ever", machine.phase());
        }
        // Left alone, with nobody who reports anything, it comes to rest or is tried again for ever.
        for _ in 0..6 {
            let Some(at) = machine.wake_at() else { break };
            now = now.max(at);
            world.carry_out(&machine.step(Event::Tick, &limits, now));
        }
        prop_assert!(matches!(machine.phase(), Phase::Running | Phase::Debugging | Phase::Gone | Phase::Zombie
            | Phase::Killing), "{:?}", machine.phase());
    }
}
