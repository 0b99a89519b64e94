//! Clients come and go; the X session stays.

use super::{desk::Desk, installation::Installation, viewer::Viewer};

#[tokio::test]
async fn a_client_that_comes_back_finds_the_same_session() {
    let at = Installation::shared().await;
    let bob = Desk::animated(&at, "bob").await;
    let guest = bob.start().await;
    let viewer = Viewer::connect(&bob).await;
    viewer.sees_motion("client's start until the picture of a running VM").await;
    let session = guest.session().await;

    let screen = viewer.leave().await;
    bob.disconnected().await;
    let viewer = Viewer::on(screen, &bob);
    viewer.sees_motion("client's start until the picture of a suspended session").await;
    assert_eq!(guest.session().await, session);
    viewer.leave().await;
    bob.stop().await;
}

#[tokio::test]
async fn a_second_client_takes_the_session_over_and_the_first_is_told() {
    let at = Installation::shared().await;
    let carol = Desk::animated(&at, "carol").await;
    let guest = carol.start().await;
    let first = Viewer::connect(&carol).await;
    first.sees_motion("first client").await;
    let session = guest.session().await;

    let second = Viewer::connect(&carol).await;
    second.sees_motion("client's start until the picture of a session taken over").await;
    first.ended().await;
    assert!(first.said().contains("the server says: taken over"), "{}", first.said());
    assert_eq!(first.shade(), None, "the picture has moved");
    assert_eq!(guest.session().await, session);
    let ends = "select string_agg(coalesce(end_reason, 'lasts'), ', ' order by started_at) \
                from session_list where vm like 'carol@%'";
    let ends = at.value(ends).await;
    assert!(ends.starts_with("taken over") && ends.ends_with(", lasts"), "{ends}");
    second.leave().await;
    carol.stop().await;
}

#[tokio::test]
async fn an_administrator_disconnects_a_user_and_the_desktop_goes_on() {
    let at = Installation::shared().await;
    let dora = Desk::animated(&at, "dora").await;
    let guest = dora.start().await;
    let viewer = Viewer::connect(&dora).await;
    viewer.sees_motion("client's start until the picture").await;
    let session = guest.session().await;

    at.sql("select vm_disconnect('dora/desktop')").await.unwrap();
    viewer.ended().await;
    assert!(viewer.said().contains("the server says: "), "{}", viewer.said());
    dora.disconnected().await;
    assert_eq!(dora.column("state").await.as_deref(), Some("running"));

    let viewer = Viewer::connect(&dora).await;
    viewer.sees_motion("the user comes back").await;
    assert_eq!(guest.session().await, session);
    viewer.leave().await;
    dora.stop().await;
}
