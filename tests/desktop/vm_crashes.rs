//! What holds a VM, or lives inside it, is killed.

use std::time::Instant;

use super::{
    desk::Desk,
    eventually,
    guest::{Guest, all_dead},
    installation::Installation,
    measured,
    processes::Process,
    viewer::Viewer,
};

#[tokio::test]
async fn a_vm_whose_shim_is_killed_is_gone_at_once_and_tells_why() {
    dies_with("grace", |guest| guest.shim, "it ended by itself: its supervising process died").await;
}

#[tokio::test]
async fn a_vm_whose_container_is_killed_is_gone_at_once_and_tells_why() {
    dies_with("heidi", |guest| guest.lxc, "it ended by itself: it was killed by signal 9").await;
}

async fn dies_with(user: &str, victim: impl Fn(&Guest) -> Process, reason: &str) {
    let at = Installation::shared().await;
    let desk = Desk::animated(&at, user).await;
    let guest = desk.start().await;
    let viewer = Viewer::connect(&desk).await;
    viewer.sees_motion("client").await;
    let processes = guest.processes();

    let begin = Instant::now();
    victim(&guest).kill().await;
    desk.wait("stopped").await;
    desk.nothing_is_left().await;
    measured("killed until everything is gone", begin);
    all_dead(&processes).await;
    assert_eq!(desk.column("reason").await.as_deref(), Some(reason));
    viewer.ended().await;
    desk.disconnected().await;

    let viewer = Viewer::on(viewer.screen, &desk);
    viewer.sees_motion("client's start until the picture of a stopped VM").await;
    assert_eq!(desk.column("reason").await, None);
    desk.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_killed_is_restarted_and_finds_the_session() {
    let at = Installation::shared().await;
    let ivan = Desk::animated(&at, "ivan").await;
    let guest = ivan.start().await;
    let viewer = Viewer::connect(&ivan).await;
    viewer.sees_motion("client").await;
    let session = guest.session().await;

    let agent = guest.agent().unwrap();
    agent.kill().await;
    viewer.sees_motion("picture after the agent's death").await;
    eventually("there is another agent", async || {
        guest.agent().filter(|process| *process != agent).ok_or_else(|| "there is none".to_owned())
    })
    .await;
    let screen = viewer.leave().await;
    let viewer = Viewer::on(screen, &ivan);
    viewer.sees_motion("client after the agent's death").await;
    assert_eq!(guest.session().await, session);
    viewer.leave().await;
    ivan.stop().await;
}
