//! What a scenario found out: figures, the same of the other side, and what they were measured on.

use std::{collections::BTreeMap, fmt};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Durations of one thing, in nanoseconds.
pub struct Samples {
    histogram: Histogram<u64>,
}

impl Default for Samples {
    fn default() -> Self {
        #[expect(clippy::unwrap_used, reason = "these bounds and three significant digits are possible")]
        let histogram = Histogram::new_with_bounds(1, 3_600_000_000_000, 3).unwrap();
        Self { histogram }
    }
}

impl Samples {
    /// Adds one.
    pub fn add(&mut self, duration: std::time::Duration) {
        self.histogram.saturating_record(duration.as_nanos() as u64);
    }

    /// The value below which `share` of all lie, in microseconds.
    pub fn us(&self, share: f64) -> f64 {
        self.histogram.value_at_quantile(share) as f64 / 1000.0
    }

    /// The same in milliseconds.
    pub fn ms(&self, share: f64) -> f64 {
        self.us(share) / 1000.0
    }

    /// Smallest, median and largest in milliseconds.
    pub fn spread(&self) -> Value {
        json!([round(self.ms(0.0)), round(self.ms(0.5)), round(self.ms(1.0))])
    }
}

/// What a figure of a duration is told in.
#[derive(Clone, Copy)]
pub enum Unit {
    Microseconds,
    Milliseconds,
}

impl Unit {
    fn suffix(self) -> &'static str {
        match self {
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
        }
    }

    fn of(self, samples: &Samples, share: f64) -> f64 {
        match self {
            Self::Microseconds => samples.us(share),
            Self::Milliseconds => samples.ms(share),
        }
    }
}

/// The outcome of a scenario.
#[derive(Default)]
pub struct Report {
    pub scenario: &'static str,
    pub repetitions: usize,
    pub figures: BTreeMap<String, f64>,
    pub peers: BTreeMap<String, BTreeMap<String, f64>>,
    pub spread: BTreeMap<String, Value>,
}

impl Report {
    /// Sets a figure.
    pub fn figure(&mut self, key: impl Into<String>, value: f64) {
        self.figures.insert(key.into(), round(value));
    }

    /// Sets a figure of a peer or floor.
    pub fn peer(&mut self, peer: &str, key: impl Into<String>, value: f64) {
        self.peers.entry(peer.to_owned()).or_default().insert(key.into(), round(value));
    }

    /// How long claims took, and what is physically possible as the peer `floor`.
    pub fn beside_floor(&mut self, prefix: &str, unit: Unit, claims: &Samples, floors: &Samples) {
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let key = format!("{prefix}claim_{name}_{}", unit.suffix());
            self.figure(key.clone(), unit.of(claims, share));
            self.peer("floor", key, unit.of(floors, share));
        }
        self.spread.insert(format!("{prefix}claim_ms"), claims.spread());
        self.spread.insert(format!("{prefix}floor_ms"), floors.spread());
    }

    /// The object that `--json` ends with.
    pub fn to_json(&self) -> Value {
        json!({
            "scenario": self.scenario,
            "figures": self.figures,
            "peers": self.peers,
            "machine": machine(),
            "versions": { "qvd": env!("CARGO_PKG_VERSION"), "profile": profile() },
            "repetitions": self.repetitions,
            "spread": self.spread,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({} repetitions, {} build, {})", self.scenario, self.repetitions, profile(), machine())?;
        for (key, value) in &self.figures {
            writeln!(f, "  {key:<32} {value}")?;
        }
        for (peer, figures) in &self.peers {
            for (key, value) in figures {
                writeln!(f, "  {peer}: {key:<24} {value}")?;
            }
        }
        Ok(())
    }
}

fn profile() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

fn machine() -> Value {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()));
    json!({
        "cpu": model.unwrap_or_default(),
        // Not those that this process keeps to.
        "cores": processors.lines().filter(|line| line.starts_with("processor")).count(),
        "kernel": kernel,
    })
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
