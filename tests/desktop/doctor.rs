//! What `qvd doctor` says of a node that runs.

use std::process::Command;

use serde_json::Value;

use super::installation::Installation;

#[tokio::test]
async fn of_a_node_that_runs_everything_is_good_but_what_the_machine_does_not_have() {
    let at = Installation::shared().await;
    let output = Command::new(env!("CARGO_BIN_EXE_qvd"))
        .args(["doctor", "--json", "--config"])
        .arg(at.config_file())
        .output()
        .unwrap();
    let page: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(output.status.code(), Some(0), "{page:#}");
    let lines = page["sections"].as_array().unwrap().iter().flat_map(|section| {
        let title = section["title"].as_str().unwrap();
        section["findings"].as_array().unwrap().iter().map(move |line| (title, line["name"].as_str().unwrap(), line))
    });
    let lines: Vec<_> = lines.collect();
    // A test's node does not restart the machine that it is tested on.
    let of_this_machine = |title: &str, name: &str| {
        ["Kernel", "Limits", "Time"].contains(&title) || ["remounting", "room"].contains(&name)
    };
    for (title, name, line) in &lines {
        assert!(line["grade"] == "good" || of_this_machine(title, name), "{line:#}");
    }
    let found = |wanted: &str| {
        let line = lines.iter().find(|(_, name, _)| *name == wanted).unwrap_or_else(|| panic!("no {wanted}: {page:#}"));
        line.2["found"].as_str().unwrap()
    };
    assert!(found("identity").ends_with("as on record"), "{}", found("identity"));
    assert!(found("TCP port").contains("qvd l7r"), "{}", found("TCP port"));
    assert!(found("UDP port").contains("qvd l7r"), "{}", found("UDP port"));
    assert_eq!(found("bridge"), at.bridge());
}
