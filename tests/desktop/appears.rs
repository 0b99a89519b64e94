//! The main path, with the demo's own desktop.

use std::{sync::Arc, time::Instant};

use qvd::demo::display::{Display, shows_desktop};

use super::{desk::Desk, installation::Installation, measured, viewer::Viewer};

#[tokio::test]
async fn a_desktop_is_seen_and_seen_again_where_there_is_only_ipv6() {
    let at = Arc::new(Installation::of_ipv6().await);
    let sixtus = Desk::animated(&at, "sixtus").await;
    let viewer = Viewer::connect(&sixtus).await;
    viewer.sees_motion("client's start until the picture of a desktop that has only IPv6").await;
    let address = at.value(&format!("select ip from vms where id = {}", sixtus.vm)).await;
    assert!(address.starts_with("fd00:"), "{address}");
    let guest = sixtus.guest().await;
    let known = guest.run("ip -brief address show dev eth0");
    let known = String::from_utf8_lossy(&known.stdout);
    assert!(known.contains(&address) && !known.contains('.'), "{known}");
    let screen = viewer.leave().await;
    sixtus.disconnected().await;
    let viewer = Viewer::on(screen, &sixtus);
    viewer.sees_motion("the same session again").await;
    viewer.leave().await;
    sixtus.stop().await;
}

#[tokio::test]
async fn a_client_starts_its_vm_and_sees_the_desktop() {
    let at = Installation::shared().await;
    let alice = Desk::new(&at, "alice").await;
    let begin = Instant::now();
    let viewer = Viewer::on(Display::start(1280, 800).await.unwrap(), &alice);
    let picture = viewer.sees("client's start until the desktop of a stopped VM", shows_desktop).await;
    measured("all of it", begin);
    assert_eq!((picture.width(), picture.height()), (1280, 800));
    if let Some(path) = std::env::var_os("QVD_SCREENSHOT") {
        picture.save_png(path.as_ref()).unwrap();
    }
    assert_eq!(alice.column("state").await.as_deref(), Some("running"));
    assert_eq!(alice.column("user_state").await.as_deref(), Some("connected"));
    for text in ["Session acquired", "Starting X session", "Connection established"] {
        assert!(viewer.said().contains(text), "{}", viewer.said());
    }
    viewer.leave().await;
    at.wait_for("the session did not end", "select count(*) from session_list where ended_at is null", "0")
        .await
        .unwrap();
}
