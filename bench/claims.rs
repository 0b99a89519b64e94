//! Sees, through the log events that hkd emits anyway, when it claimed a command and when a VM came to run, so that
//! measuring needs no hook in the product and no further listener on the database.

use std::{fmt, time::Instant};

use tokio::sync::mpsc;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    filter::{FilterExt, filter_fn},
    layer::{Context, Layer},
    registry::LookupSpan,
};

/// Something that hkd did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    /// Claimed a start.
    ClaimedStart,
    /// Published that a VM runs.
    Running,
    /// Heard from an agent that it powers its VM off.
    PoweringOff,
    /// Published that a VM has stopped.
    Stopped,
}

/// What was done, with which VM, and when.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    pub did: Did,
    pub vm: i32,
    pub at: Instant,
}

/// All that was done.
pub type Seen = mpsc::UnboundedReceiver<Sight>;

struct Watcher {
    seen: mpsc::UnboundedSender<Sight>,
}

/// A layer that watches hkd.
pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> (impl Layer<S>, Seen) {
    let (seen, receiver) = mpsc::unbounded_channel();
    let of_hkd = filter_fn(|metadata| metadata.target().starts_with("qvd::hkd"));
    let informative = filter_fn(|metadata| *metadata.level() <= tracing::Level::INFO);
    (Watcher { seen }.with_filter(of_hkd.and(informative)), receiver)
}

#[derive(Default)]
struct Fields {
    message: String,
    command: String,
    state: String,
    vm: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let into = match field.name() {
            "message" => &mut self.message,
            "command" => &mut self.command,
            "state" => &mut self.state,
            "vm" => &mut self.vm,
            _ => return,
        };
        *into = format!("{value:?}");
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Watcher {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let now = Instant::now();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let did = match (fields.message.as_str(), fields.command.as_str(), fields.state.as_str()) {
            ("claimed", "start", _) => Did::ClaimedStart,
            ("VM", _, "running") => Did::Running,
            ("powers off", ..) => Did::PoweringOff,
            ("VM", _, "stopped") => Did::Stopped,
            _ => return,
        };
        let Ok(vm) = fields.vm.parse() else { return };
        let _ = self.seen.send(Sight { did, vm, at: now });
    }
}

/// Waits for something to be done; what was done before it is forgotten.
pub async fn next(seen: &mut Seen, wanted: Did) -> anyhow::Result<Instant> {
    let limit = std::time::Duration::from_secs(60);
    tokio::time::timeout(limit, async {
        while let Some(Sight { did, at, .. }) = seen.recv().await {
            if did == wanted {
                return Ok(at);
            }
        }
        anyhow::bail!("hkd has ended")
    })
    .await
    .map_err(|_| anyhow::anyhow!("hkd did not get to {wanted:?} within {limit:?}"))?
}
