//! What the overview draws: VMs by state, what is blocked, the nodes by load, VMs whose time ends, logins and how quickly
//! changes are heard of. Each is there only for who has the right to its figures.

use std::time::Instant;

use jiff::{Timestamp, ToSpan};

use crate::db::{Acting, Blocked, DegradedHost, ExpiringVm, HostLoad, Overview};

use super::{
    super::{latency::MINUTES, server::Wat, text::Language},
    Problem,
    charts::{Hour, Level, Part, Ring, bars, milliseconds},
};

/// Everything that is drawn.
pub struct Charts {
    pub rings: Vec<Ring>,
    pub hours: Vec<Hour>,
    pub hosts: Option<Vec<Host>>,
    pub expiring: Option<Expiring>,
    pub events: Option<Events>,
}

/// A node and how loaded it is.
pub struct Host {
    pub id: i32,
    pub name: String,
    pub vms: i64,
    /// Of memory and of processors.
    pub levels: [Option<Level>; 2],
}

/// VMs whose time ends.
pub struct Expiring {
    pub all: i64,
    pub href: String,
    pub vms: Vec<ExpiringVm>,
}

/// How changes are told, beside how long it takes.
pub struct Events {
    /// Of the server's queue, in percent.
    pub queue: String,
    pub degraded: Vec<DegradedHost>,
}

impl Charts {
    pub async fn of(wat: &Wat, acting: &Acting, language: Language) -> Result<Self, Problem> {
        let overview = acting.overview().await?;
        let latency = wat.live.latency(Instant::now());
        Ok(drawn(overview, latency, Timestamp::now(), language))
    }
}

type Latency = [Option<std::time::Duration>; MINUTES];

fn drawn(overview: Overview, latency: Latency, now: Timestamp, language: Language) -> Charts {
    let t = |english: &'static str| language.text(english);
    let mut rings = Vec::new();
    if let Some(states) = &overview.vm_states {
        let count = |wanted: &[&str]| wanted.iter().filter_map(|state| states.get(*state)).sum();
        let part = |title, filter: &str, class, count| Part { title, href: list("vm", filter, ""), class, count };
        rings.push(Ring::new(
            t("VMs by state"),
            vec![
                part(t("running"), "state=running", "good", count(&["running"])),
                part(t("on their way"), "state=[starting,stopping]", "busy", count(&["starting", "stopping"])),
                part(t("in trouble"), "state=[zombie,debugging]", "bad", count(&["zombie", "debugging"])),
                part(t("not running"), "state=stopped", "idle", count(&["stopped"])),
            ],
        ));
    }
    let blocked = |title, kind, Blocked { all, blocked }: &Blocked| {
        let part = |title, filter, class, count| Part { title, href: list(kind, filter, ""), class, count };
        Ring::new(
            title,
            vec![
                part(t("blocked"), "blocked=1", "bad", *blocked),
                part(t("not blocked"), "blocked=0", "idle", all - blocked),
            ],
        )
    };
    rings.extend(overview.vms.as_ref().map(|vms| blocked(t("Blocked VMs"), "vm", vms)));
    rings.extend(overview.users.as_ref().map(|users| blocked(t("Blocked users"), "user", users)));
    let mut hours = Vec::new();
    hours.extend(overview.logins.map(|minutes| logins(minutes, language)));
    let events = overview
        .events
        .map(|events| Events { queue: format!("{:.0} %", events.queue * 100.0), degraded: events.degraded });
    if events.is_some() {
        hours.push(heard(latency, now, language));
    }
    Charts {
        rings,
        hours,
        hosts: overview.hosts.map(|hosts| hosts.into_iter().map(Host::from).collect()),
        expiring: overview.expiring.map(|expiring| Expiring {
            all: expiring.all,
            href: list("vm", "expiration_soft!=;expiration_hard!=", "expiration_hard"),
            vms: expiring.first,
        }),
        events,
    }
}

impl From<HostLoad> for Host {
    fn from(host: HostLoad) -> Self {
        let HostLoad { id, name, vms, memory, processors } = host;
        Self { id, name, vms, levels: [memory, processors].map(|share| share.map(Level::of)) }
    }
}

/// The address of a list.
fn list(kind: &str, filter: &str, order: &str) -> String {
    let pairs = [("filter", filter), ("order", order)].into_iter().filter(|(_, value)| !value.is_empty());
    format!("/{kind}?{}", serde_urlencoded::to_string(pairs.collect::<Vec<_>>()).unwrap_or_default())
}

fn logins(minutes: Vec<(String, i64)>, language: Language) -> Hour {
    let all: i64 = minutes.iter().map(|(_, count)| count).sum();
    let most = minutes.iter().max_by_key(|(_, count)| *count).cloned().unwrap_or_default();
    let figures: Vec<_> =
        minutes.into_iter().map(|(minute, count)| (minute, count as f64, count.to_string())).collect();
    let t = |english| language.text(english);
    Hour {
        title: t("Logins per minute"),
        name: "logins",
        said: format!("{}: {all}. {}: {} ({} UTC).", t("In the last hour"), t("At most"), most.1, most.0),
        bars: bars(&figures),
        most: most.1.to_string(),
    }
}

/// How long it took until changes were heard of.
fn heard(latency: Latency, now: Timestamp, language: Language) -> Hour {
    let t = |english| language.text(english);
    let minute = |at: usize| {
        let then = now.saturating_sub(((MINUTES - 1 - at) as i64).minutes()).unwrap_or(now);
        then.strftime("%H:%M").to_string()
    };
    let figures: Vec<_> = latency
        .iter()
        .enumerate()
        .map(|(at, took)| {
            (minute(at), took.map_or(0.0, |took| took.as_secs_f64()), took.map_or("–".to_owned(), milliseconds))
        })
        .collect();
    let longest = latency.iter().flatten().max().copied();
    let last = latency.iter().rev().flatten().next().copied();
    let said = match (last, longest) {
        (Some(last), Some(longest)) => format!(
            "{}: {}. {}: {}.",
            t("Last"),
            milliseconds(last),
            t("At most in the last hour"),
            milliseconds(longest)
        ),
        _ => t("Nothing has been measured yet.").to_owned(),
    };
    Hour {
        title: t("Time until changes are heard of"),
        name: "latency",
        said,
        bars: bars(&figures),
        most: longest.map_or("–".to_owned(), milliseconds),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn of(json: serde_json::Value, latency: Latency) -> Charts {
        let now = "2026-11-27T03:30:20Z".parse().unwrap();
        drawn(serde_json::from_value(json).unwrap(), latency, now, Language::English)
    }

    #[test]
    fn only_what_there_are_figures_of_is_drawn() {
        let nothing = of(serde_json::json!({}), [Some(Duration::from_millis(3)); MINUTES]);
        assert!(nothing.rings.is_empty() && nothing.hours.is_empty());
        assert!(nothing.hosts.is_none() && nothing.expiring.is_none() && nothing.events.is_none());
    }

    #[test]
    fn an_hour_is_also_said_in_a_sentence() {
        let mut latency = [None; MINUTES];
        (latency[40], latency[58]) = (Some(Duration::from_millis(42)), Some(Duration::from_micros(2500)));
        let figures = serde_json::json!({
            "logins": [["02:31", 0], ["02:32", 4], ["02:33", 1]], "events": { "queue": 0.0, "degraded": [] },
        });
        let charts = of(figures, latency);
        assert_eq!(charts.hours[0].said, "In the last hour: 5. At most: 4 (02:32 UTC).");
        assert_eq!(charts.hours[1].said, "Last: 2.5 ms. At most in the last hour: 42 ms.");
        let minutes: Vec<_> = charts.hours[1].bars.iter().map(|bar| bar.minute.as_str()).collect();
        assert_eq!((minutes.len(), minutes[0], minutes[59]), (60, "02:31", "03:30"));
        assert_eq!(charts.hours[1].bars[40].text, "42 ms");
    }
}
