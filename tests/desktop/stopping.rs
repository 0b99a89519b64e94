//! Stops from SQL: what goes, what stays, and at which moments.

use std::fs;

use qvd::keeper::ShimDir;

use super::{desk::Desk, eventually, guest::all_dead, holds, installation::Installation, viewer::Viewer};

#[tokio::test]
async fn a_stop_takes_everything_away_but_the_home() {
    let at = Installation::shared().await;
    let dave = Desk::animated(&at, "dave").await;
    let guest = dave.start().await;
    let viewer = Viewer::connect(&dave).await;
    viewer.sees_motion("client").await;
    let processes = guest.processes();
    assert!(!dave.traces().is_empty(), "a running VM has none of the traces that are looked for");
    assert!(guest.run("echo letter > /home/dave/letter; echo scribble > /var/scribble").status.success());

    dave.stop().await;
    all_dead(&processes).await;
    for column in ["host", "command", "reason", "di_in_use"] {
        assert_eq!(dave.column(column).await, None, "{column}");
    }
    let status = viewer.ended().await;
    assert!(status.success() && viewer.said().contains("the session ended"), "{status}: {}", viewer.said());
    dave.disconnected().await;
    assert_eq!(fs::read_to_string(dave.home().join("letter")).unwrap(), "letter\n");

    let guest = dave.start().await;
    let seen = guest.run("cat /home/dave/letter; ls /var/scribble");
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "letter\n");
    let viewer = Viewer::on(viewer.screen, &dave);
    viewer.sees_motion("client").await;
    dave.stop().await;
}

#[tokio::test]
async fn a_vm_can_be_stopped_at_every_moment_of_its_start() {
    let at = Installation::shared().await;
    let erin = Desk::new(&at, "erin").await;
    let moments = [
        "'command given'",
        "state::text",
        "case when exists (select from log where action = 'claim' and object_id = vm_list.id) then 'claimed' end",
    ];
    for (moment, wanted) in moments.into_iter().zip(["command given", "starting", "claimed"]) {
        erin.ask_start().await;
        eventually(wanted, async || match erin.column(moment).await {
            Some(seen) if seen == wanted || seen == "running" => Ok(()),
            seen => Err(format!("{seen:?}")),
        })
        .await;
        erin.stop().await;
    }
    let shim = ShimDir::new(at.run_directory().join("vm").join(erin.vm.to_string()));
    for made in [shim.path().to_owned(), shim.spec(), shim.socket()] {
        erin.ask_start().await;
        eventually(&format!("{} is there", made.display()), async || holds(made.exists())).await;
        erin.stop().await;
    }
    erin.start().await;
    erin.stop().await;
}

#[tokio::test]
async fn a_storm_of_starts_and_stops_ends_as_the_last_one_said() {
    let at = Installation::shared().await;
    let frank = Desk::new(&at, "frank").await;
    for _ in 0..10 {
        frank.start_when_allowed().await;
        frank.ask_stop().await;
    }
    frank.wait("stopped").await;
    frank.nothing_is_left().await;

    for _ in 0..10 {
        frank.start_when_allowed().await;
        frank.ask_stop().await;
    }
    frank.start_when_allowed().await;
    frank.wait("running").await;
    let guest = frank.guest().await;
    assert!(guest.agent().is_some());
    frank.stop().await;
    all_dead(&[guest.shim]).await;
}

impl Desk {
    /// Starts it as soon as the database lets us; until then it must say why not.
    async fn start_when_allowed(&self) {
        let name = self.name();
        eventually("it may be started", async || match self.at.sql(&format!("select vm_start('{name}')")).await {
            Ok(_) => Ok(()),
            Err(error) => {
                assert!(error.to_string().contains("cannot be told to start"), "{error}");
                Err(error.to_string())
            }
        })
        .await;
    }
}
