//! Processes of the node are killed, or replaced by others, while a desktop is in use.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{desk::Desk, eventually, guest::Guest, holds, installation::Installation, measured, viewer::Viewer};

#[tokio::test]
async fn no_desktop_stops_when_hkd_and_keeper_are_killed() {
    let (at, _turn) = Installation::to_be_broken().await;
    let judy = Desk::animated(&at, "judy").await;
    let guest = judy.start().await;
    let viewer = Viewer::connect(&judy).await;
    viewer.sees_motion("client").await;
    let processes = guest.lasting().await;
    let since = judy.column("since").await;

    for victims in [&["keeper"][..], &["hkd"], &["hkd", "keeper"]] {
        let killed: Vec<_> = victims.iter().map(|name| (*name, at.process(name).unwrap())).collect();
        for (_, process) in &killed {
            process.kill().await;
        }
        viewer.sees_motion("picture without them").await;
        for (name, process) in killed {
            let successor = at.successor(name, process).await;
            if name == "hkd" {
                let pid = "select pid::text from host_runtimes where state = 'running'";
                at.wait_for("the new hkd did not register", pid, &successor.pid.to_string()).await.unwrap();
            }
        }
        viewer.sees_motion("picture with their successors").await;
        assert_eq!(guest.lasting().await, processes, "{victims:?}");
    }
    assert_eq!(judy.column("state").await.as_deref(), Some("running"));
    assert_eq!(judy.column("since").await, since);
    assert!(viewer.is_connected());
    judy.stop().await;
    assert_eq!(judy.column("reason").await, None);
    viewer.ended().await;
}

#[tokio::test]
async fn a_client_whose_router_was_killed_comes_back_to_the_same_session() {
    let (at, _turn) = Installation::to_be_broken().await;
    let ken = Desk::animated(&at, "ken").await;
    let guest = ken.start().await;
    let viewer = Viewer::connect(&ken).await;
    viewer.sees_motion("client").await;
    let session = guest.session().await;

    at.process("l7r").unwrap().kill().await;
    let status = viewer.ended().await;
    assert_eq!(status.code(), Some(7), "{status:?} {:?}: {}", status.signal(), viewer.said());
    let viewer = Viewer::on(viewer.screen, &ken);
    viewer.sees_motion("client's start until the picture after the router's death").await;
    assert_eq!(guest.session().await, session);
    viewer.leave().await;
    ken.stop().await;
}

#[tokio::test]
async fn a_node_that_is_killed_and_started_again_takes_its_desktops_over() {
    let (at, _turn) = Installation::to_be_broken().await;
    let liam = Desk::animated(&at, "liam").await;
    let guest = liam.start().await;
    let viewer = Viewer::connect(&liam).await;
    viewer.sees_motion("client").await;
    let old = ["hkd", "l7r", "keeper"].map(|name| at.process(name).unwrap());

    at.process("node").unwrap().kill().await;
    viewer.ended().await;
    eventually("the node's processes end with it", async || holds(old.iter().all(|process| !process.lives()))).await;
    goes_on(&at, &liam, &guest, viewer).await;
}

#[tokio::test]
async fn a_node_that_is_replaced_leaves_its_desktops_running() {
    let (at, _turn) = Installation::to_be_broken().await;
    let mia = Desk::animated(&at, "mia").await;
    let guest = mia.start().await;
    let viewer = Viewer::connect(&mia).await;
    viewer.sees_motion("client").await;

    at.stop_node().await;
    viewer.ended().await;
    goes_on(&at, &mia, &guest, viewer).await;
}

#[tokio::test]
async fn a_newer_program_takes_over_while_the_picture_goes_on() {
    let (at, _turn) = Installation::to_be_broken().await;
    let nora = Desk::animated(&at, "nora").await;
    let guest = nora.start().await;
    let viewer = Viewer::connect(&nora).await;
    viewer.sees_motion("client").await;
    let processes = guest.lasting().await;
    let [hkd, keeper, router] = ["hkd", "keeper", "l7r"].map(|name| at.process(name).unwrap());

    at.process("node").unwrap().signal(Signal::SIGHUP);
    at.successor("hkd", hkd).await;
    at.successor("keeper", keeper).await;
    at.wait_for("no second router", "select count(*) from l7r_instances where ended_at is null", "2").await.unwrap();
    viewer.sees_motion("picture with the new processes").await;
    assert!(router.lives(), "the old router serves its user");
    assert_eq!(guest.lasting().await, processes);

    let screen = viewer.leave().await;
    eventually("the old router ends with its last user", async || holds(!router.lives())).await;
    let viewer = Viewer::on(screen, &nora);
    viewer.sees_motion("client's start until the picture through the new router").await;
    viewer.leave().await;
    nora.stop().await;
}

#[tokio::test]
async fn over_quic_a_user_keeps_the_session_whether_the_router_is_replaced_or_killed() {
    let (at, _turn) = Installation::to_be_broken().await;
    let paul = Desk::animated(&at, "paul").await;
    let guest = paul.start().await;
    let viewer = Viewer::connect_over_quic(&paul).await;
    viewer.sees_motion("client").await;
    let (session, router) = (guest.session().await, at.process("l7r").unwrap());

    at.process("node").unwrap().signal(Signal::SIGHUP);
    let successor = at.successor("l7r", router).await;
    viewer.comes_again(1).await;
    viewer.sees_motion("picture through the new router").await;

    successor.kill().await;
    viewer.comes_again(2).await;
    viewer.sees_motion("picture through the router after that").await;
    assert_eq!(guest.session().await, session);
    viewer.leave().await;
    paul.stop().await;
}

#[tokio::test]
async fn a_desktop_whose_node_gives_no_sign_of_life_ends_by_itself_and_is_nobodys_then() {
    let at = Arc::new(Installation::open_with_patience(8).await);
    let olga = Desk::new(&at, "olga").await;
    let guest = olga.start().await;
    let owner = || fs::read_to_string(at.storage(&format!("homefs/lock.{}", olga.vm))).unwrap();
    assert!(owner().contains("\"epoch\":1"), "{}", owner());
    let (processes, silent) = (guest.processes(), Instant::now());
    let daemons = ["hkd", "keeper"].map(|name| at.process(name).unwrap());
    daemons.iter().for_each(|daemon| daemon.signal(Signal::SIGSTOP));
    eventually("nothing of it lives", async || holds(!processes.iter().any(|process| process.lives()))).await;
    measured("last sign of life until the desktop is dead", silent);
    assert!(silent.elapsed() < Duration::from_secs(8), "others could have started it");

    daemons.iter().for_each(|daemon| daemon.signal(Signal::SIGCONT));
    olga.wait("stopped").await;
    let reason = olga.column("reason").await.unwrap();
    assert_eq!(reason, "it ended by itself: its node could give no sign of life");
    assert_eq!(at.value("select epoch || ' ' || state from host_list").await, "1 running", "nobody took it over");
    assert_eq!(owner(), "");
    olga.start().await;
    olga.stop().await;
    assert_eq!(owner(), "");
}

/// The node is down, its desktop is not; the next node takes it over.
async fn goes_on(at: &Installation, desk: &Desk, guest: &Guest, viewer: Viewer) {
    let processes = guest.lasting().await;
    assert!(at.process("hkd").is_none());
    assert_eq!(desk.column("state").await.as_deref(), Some("running"));

    at.start_node().await.unwrap();
    let viewer = Viewer::on(viewer.screen, desk);
    viewer.sees_motion("client's start until the picture with a new node").await;
    assert_eq!(guest.lasting().await, processes);
    assert_eq!(desk.column("state").await.as_deref(), Some("running"));
    desk.stop().await;
    assert_eq!(desk.column("reason").await, None);
    viewer.ended().await;
}
