//! What `qvd status` shows of one node, and `qvd wat` of all, in the text format that Prometheus reads. Only names are given
//! here; figures are counted by the hub, by the database and, on their way there, by routers.

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
    ("/database/sessions", "qvd_sessions", "gauge", "Sessions through a node's routers."),
    ("/node/running", "qvd_node_running", "gauge", "Whether a node runs and gives signs of life."),
    ("/node/blocked", "qvd_node_blocked", "gauge", "Whether a node was told to take no more VMs."),
    ("/node/degraded", "qvd_node_degraded", "gauge", "Whether a node's storage hangs."),
    ("/node/sign_age_s", "qvd_node_sign_age_seconds", "gauge", "Time since the last sign of life of a node."),
    ("/node/free_memory_bytes", "qvd_node_free_memory_bytes", "gauge", "Memory of a node that is free for VMs."),
    (
        "/node/cpu_pressure",
        "qvd_node_cpu_pressure_ratio",
        "gauge",
        "Share of the time in which processors were waited for.",
    ),
    (
        "/node/failed_starts",
        "qvd_node_failed_starts",
        "gauge",
        "Starts that failed lately; they count for less as time goes by.",
    ),
];

/// Of the server that all nodes share.
const SERVER: &[Single] = &[
    (
        "/notification_queue_usage",
        "qvd_notification_queue_usage_ratio",
        "gauge",
        "Share of the server's queue of notifications that is in use.",
    ),
    ("/connections", "qvd_database_connections", "gauge", "Connections to the server."),
    ("/max_connections", "qvd_database_connections_limit", "gauge", "Connections that the server allows."),
    ("/commits", "qvd_database_commits_total", "counter", "Transactions of the database that were committed."),
    ("/rollbacks", "qvd_database_rollbacks_total", "counter", "Transactions of the database that were undone."),
    (
        "/deadlocks",
        "qvd_database_deadlocks_total",
        "counter",
        "Transactions that had to be undone because they waited for each other.",
    ),
    ("/size_bytes", "qvd_database_size_bytes", "gauge", "Size of the database on disk."),
];

const LABELLED: &[Labelled] = &[
    ("/reconciles", "qvd_reconciles_total", "cause", "counter", "Times that the node asked for commands."),
    ("/database/vm_states", "qvd_vms", "state", "gauge", "VMs of a node."),
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

/// Figures by name, each with its type and meaning said once, however many have it.
#[derive(Default)]
pub struct Exposition(Vec<Family>);

struct Family {
    name: String,
    /// Type and meaning, and the figures.
    text: String,
}

impl Exposition {
    /// Adds a figure with labels, which are names and values.
    pub fn add(&mut self, name: &str, kind: &str, meaning: &str, labels: &[(&str, &str)], figure: f64) {
        let known = self.0.iter().position(|family| family.name == name);
        let at = known.unwrap_or_else(|| {
            let text = format!("# HELP {name} {meaning}\n# TYPE {name} {kind}\n");
            self.0.push(Family { name: name.to_owned(), text });
            self.0.len() - 1
        });
        let text = &mut self.0[at].text;
        text.push_str(name);
        for (n, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            let _ = write!(text, "{}{label}=\"{value}\"", if n == 0 { '{' } else { ',' });
        }
        let _ = writeln!(text, "{} {figure}", if labels.is_empty() { "" } else { "}" });
    }

    /// Adds what is known of all nodes, by their names, and of the server that they share.
    pub fn add_cluster(&mut self, cluster: &Value) {
        for (node, status) in cluster.get("nodes").and_then(Value::as_object).into_iter().flatten() {
            self.add_node(Some(node), status);
        }
        let server = cluster.get("server").unwrap_or(&Value::Null);
        for (at, name, kind, meaning) in SERVER {
            if let Some(figure) = server.pointer(at).and_then(figure) {
                self.add(name, kind, meaning, &[], figure);
            }
        }
    }

    fn add_node(&mut self, node: Option<&str>, status: &Value) {
        let node = node.map(|node| ("node", node));
        let labels = |label: Option<(&'static str, &'_ str)>| -> Vec<(&'static str, String)> {
            node.into_iter().chain(label).map(|(label, value)| (label, value.to_owned())).collect()
        };
        let mut add = |name: &str, kind: &str, meaning: &str, label: Option<(&'static str, &str)>, figure: f64| {
            let labels = labels(label);
            let labels: Vec<_> = labels.iter().map(|(label, value)| (*label, value.as_str())).collect();
            self.add(name, kind, meaning, &labels, figure);
        };
        for (at, name, kind, meaning) in SINGLE {
            if let Some(figure) = status.pointer(at).and_then(figure) {
                add(name, kind, meaning, None, figure);
            }
        }
        let degraded = status.get("trouble").is_some_and(|trouble| !trouble.is_null());
        let meaning = "Whether notifications cannot be relied upon.";
        add("qvd_notifications_degraded", "gauge", meaning, None, f64::from(degraded));
        for (at, name, label, kind, meaning) in LABELLED {
            for (value, counted) in status.pointer(at).and_then(Value::as_object).into_iter().flatten() {
                add(name, kind, meaning, Some((label, value)), figure(counted).unwrap_or_default());
            }
        }
        for (counter, counted) in status.pointer("/database/router").and_then(Value::as_object).into_iter().flatten() {
            let name = format!("qvd_router_{counter}_total");
            add(&name, "counter", "Counted by the routers of a node.", None, figure(counted).unwrap_or_default());
        }
        for (way, counted) in status.pointer("/database/tunnels").and_then(Value::as_object).into_iter().flatten() {
            for counter in ["tunnels", "bytes_up", "bytes_down"] {
                let name = format!("qvd_tunnel_{counter}_total");
                let counted = figure(&counted[counter]).unwrap_or_default();
                add(&name, "counter", "By the way on which bytes were moved.", Some(("way", way)), counted);
            }
        }
    }

    /// The text.
    pub fn text(&self) -> String {
        self.0.iter().map(|family| family.text.as_str()).collect()
    }
}

/// The text for what `qvd status` shows as JSON.
pub fn exposition(status: &Value) -> String {
    let mut exposition = Exposition::default();
    exposition.add_node(None, status);
    exposition.text()
}

fn figure(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_bool().map(f64::from))
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

    #[test]
    fn figures_of_all_nodes_say_whose_they_are_and_what_they_mean_once() {
        let mut exposition = Exposition::default();
        let of = |vms: u64, running: bool| json!({ "node": { "running": running }, "database": { "vm_states": { "running": vms } } });
        exposition
            .add_cluster(&json!({ "nodes": { "a": of(3, true), "b": of(4, false) }, "server": { "commits": 9 } }));
        exposition.add("qvd_wat_streams", "gauge", "Pages that are open.", &[], 2.0);
        let text = exposition.text();
        for line in [
            "qvd_vms{node=\"a\",state=\"running\"} 3",
            "qvd_vms{node=\"b\",state=\"running\"} 4",
            "qvd_node_running{node=\"a\"} 1",
            "qvd_node_running{node=\"b\"} 0",
            "qvd_database_commits_total 9",
            "qvd_wat_streams 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert_eq!(text.matches("# TYPE qvd_vms gauge").count(), 1, "{text}");
        let (types, vms) = (text.find("# TYPE qvd_vms ").unwrap(), text.rfind("qvd_vms{").unwrap());
        assert!(!text[types + 1..vms].contains("# TYPE"), "figures of one name stand together\n{text}");
    }
}
