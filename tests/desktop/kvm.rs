//! The same as in containers, where the desktop is a machine of its own.

use std::{process::Command, sync::Arc, time::Instant};

use qvd::{
    events,
    model::{VmId, config::keys},
};

use super::{desk::Desk, installation::Installation, measured, viewer::Viewer};

/// What the disk of a home has of the file in which the user's sessions are counted.
fn sessions(desk: &Desk) -> String {
    let raw = tempfile::NamedTempFile::new().unwrap();
    let home = desk.at.storage(&format!("homes/{}-data.qcow2", desk.vm));
    let converted = Command::new("qemu-img").args(["convert", "-O", "raw"]).arg(home).arg(raw.path()).status();
    assert!(converted.unwrap().success());
    let partition = format!("{}?offset=1048576", raw.path().display());
    let file = format!("cat /{}/sessions", desk.user);
    let read = Command::new("debugfs").args(["-R", &file, &partition]).env("PATH", "/usr/sbin:/sbin:/usr/bin").output();
    String::from_utf8(read.unwrap().stdout).unwrap()
}

#[tokio::test]
async fn a_user_finds_the_home_again_in_a_guest_that_was_stopped() {
    let at = Arc::new(Installation::of_guests().await);
    let erin = Desk::new(&at, "erin").await;
    erin.start().await;
    let shown = events::status(&at.config().unwrap().get(&keys::PATH_RUN).join("relay.sock")).await.unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["vm_memory"]["given_bytes"][erin.vm.to_string()], 512 << 20, "{shown}");
    let viewer = Viewer::connect(&erin).await;
    viewer.sees_motion("client's start until the picture of an emulated guest").await;
    let screen = viewer.leave().await;
    erin.stop().await;
    assert_eq!(erin.column("reason").await, None, "its agent took the order to power off");
    assert_eq!(sessions(&erin), "session\n");

    erin.start().await;
    let viewer = Viewer::on(screen, &erin);
    viewer.sees_motion("client's start until the picture of an emulated guest with a home").await;
    let began = Instant::now();
    at.hypervisor().unwrap().unwrap().press_power_button(VmId(erin.vm)).await.unwrap();
    erin.wait("stopped").await;
    measured("power button pressed until a guest is gone", began);
    erin.nothing_is_left().await;
    assert_eq!(erin.column("reason").await.as_deref(), Some("it ended by itself: it shut down"));
    viewer.ended().await;
    assert_eq!(sessions(&erin), "session\nsession\n");
}
