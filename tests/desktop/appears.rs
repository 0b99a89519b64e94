//! The main path, with the demo's own desktop.

use std::time::Instant;

use qvd::demo::display::{Display, shows_desktop};

use super::{desk::Desk, installation::Installation, measured, viewer::Viewer};

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
