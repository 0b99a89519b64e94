//! What `qvd status` shows, in the text format that Prometheus reads. Only names are given here; figures are counted by the
//! hub, by the database and, on their way there, by routers.

use std::fmt::Write;

use serde_json::Value;

/// A figure: where it is, what it is called, its type and meaning.
type Single = (&'static str, &'static str, &'static str, &'static str);
/// Figures by a label: where their object is, what they are called, the label, their type and meaning.
type Labelled = (&'static str, &'static str, &'static str, &'static str, &'static str);

const SINGLE: &[Single] = &[
    ("/wakeups", "qvd_wakeups_total", "counter", "Notifications that were heard and asked for something to be read."),
    ("/missed_wakeups", "qvd_missed_wakeups_total", "counter", "Polls that found work which nothing had announced."),
    ("/gaps", "qvd_gaps_total", "counter", "Times in which notifications may have been lost."),
    ("/beats", "qvd_beats_total", "counter", "Beats of the cluster that were heard."),
    ("/beat_age_s", "qvd_beat_age_seconds", "gauge", "Time since the last beat was heard."),
    ("/beat_delay_s", "qvd_beat_delay_seconds", "gauge", "How much later than it was due the last beat was heard."),
    ("/reconnects", "qvd_listener_replacements_total", "counter", "Listening connections that were replaced."),
    ("/poll_interval_s", "qvd_poll_interval_seconds", "gauge", "Time between polls."),
    (
        "/database/notification_queue_usage",
        "qvd_notification_queue_usage_ratio",
        "gauge",
        "Share of the server's queue of notifications that is in use.",
    ),
    ("/database/sessions", "qvd_sessions", "gauge", "Sessions through this node's routers."),
];

const LABELLED: &[Labelled] = &[
    ("/reconciles", "qvd_reconciles_total", "cause", "counter", "Times that the node asked for commands."),
    ("/database/vm_states", "qvd_vms", "state", "gauge", "VMs of this node."),
    ("/vm_memory/given_bytes", "qvd_vm_memory_given_bytes", "vm", "gauge", "Memory of a guest without its balloon."),
    (
        "/vm_memory/available_bytes",
        "qvd_vm_memory_available_bytes",
        "vm",
        "gauge",
        "What of its memory a guest could still use, as its kernel says.",
    ),
    ("/database/session_ends", "qvd_session_ends_total", "reason", "counter", "Sessions that ended."),
];

/// The text for what `qvd status` shows as JSON.
pub fn exposition(status: &Value) -> String {
    let mut text = String::new();
    for (at, name, kind, meaning) in SINGLE {
        if let Some(figure) = status.pointer(at).and_then(Value::as_f64) {
            family(&mut text, name, kind, meaning);
            line(&mut text, name, None, figure);
        }
    }
    let degraded = status.get("trouble").is_some_and(|trouble| !trouble.is_null());
    family(&mut text, "qvd_notifications_degraded", "gauge", "Whether notifications cannot be relied upon.");
    line(&mut text, "qvd_notifications_degraded", None, f64::from(degraded));
    for (at, name, label, kind, meaning) in LABELLED {
        let Some(figures) = status.pointer(at).and_then(Value::as_object) else { continue };
        family(&mut text, name, kind, meaning);
        for (value, figure) in figures {
            line(&mut text, name, Some((label, value)), figure.as_f64().unwrap_or(0.0));
        }
    }
    for (counter, figure) in status.pointer("/database/router").and_then(Value::as_object).into_iter().flatten() {
        let name = format!("qvd_router_{counter}_total");
        family(&mut text, &name, "counter", "Counted by the routers of this node.");
        line(&mut text, &name, None, figure.as_f64().unwrap_or(0.0));
    }
    if let Some(tunnels) = status.pointer("/database/tunnels").and_then(Value::as_object) {
        for counter in ["tunnels", "bytes_up", "bytes_down"] {
            let name = format!("qvd_tunnel_{counter}_total");
            family(&mut text, &name, "counter", "By the way on which bytes were moved.");
            for (way, counted) in tunnels {
                line(&mut text, &name, Some(("way", way)), counted[counter].as_f64().unwrap_or(0.0));
            }
        }
    }
    text
}

fn family(text: &mut String, name: &str, kind: &str, meaning: &str) {
    let _ = writeln!(text, "# HELP {name} {meaning}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, label: Option<(&str, &str)>, figure: f64) {
    let _ = match label {
        Some((label, value)) => {
            let value = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            writeln!(text, "{name}{{{label}=\"{value}\"}} {figure}")
        }
        None => writeln!(text, "{name} {figure}"),
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_have_names_types_and_labels_and_what_is_not_known_is_left_out() {
        let status = json!({
            "wakeups": 3, "trouble": null, "reconciles": { "poll": 2 }, "vm_memory": { "given_bytes": { "7": 512 } },
            "database": {
                "session_ends": { "say \"no\"": 1 },
                "router": { "http_requests": 7 },
                "tunnels": { "ktls": { "tunnels": 1, "bytes_up": 10, "bytes_down": 20 } },
            },
        });
        let text = exposition(&status);
        for line in [
            "# TYPE qvd_wakeups_total counter",
            "qvd_wakeups_total 3",
            "qvd_notifications_degraded 0",
            "qvd_reconciles_total{cause=\"poll\"} 2",
            "qvd_vm_memory_given_bytes{vm=\"7\"} 512",
            "qvd_session_ends_total{reason=\"say \\\"no\\\"\"} 1",
            "qvd_router_http_requests_total 7",
            "qvd_tunnel_bytes_down_total{way=\"ktls\"} 20",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(!text.contains("qvd_beats_total"), "{text}");
        let without = exposition(&json!({ "trouble": "it is", "database": null }));
        assert!(without.contains("qvd_notifications_degraded 1") && !without.contains("router"), "{without}");
    }
}
