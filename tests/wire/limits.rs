//! Sessions that end because their tenant lets them last no longer.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stage::calm;

#[tokio::test]
async fn a_session_in_which_nothing_is_said_ends_at_the_idle_limit_of_its_tenant() {
    let stage = calm().await;
    let mut other = stage.running_in_tenant(&[("l7r.session.idle_limit", "3600"), ("l7r.session.limit", "3600")]).await;
    let mut lasting = other.connected().await;
    let mut desktop = stage.running_in_tenant(&[("l7r.session.idle_limit", "0.4")]).await;
    let mut tunnel = desktop.connected().await;
    assert!(tunnel.client.ended().await && tunnel.client.goodbye, "the client is told in good order");
    assert_eq!(tunnel.nx.read(&mut [0]).await.unwrap(), 0);
    desktop.freed().await;
    assert_eq!(desktop.end_reason().await, "nothing was said for 0.4 s, the limit");

    lasting.nx.write_all(b"still here").await.unwrap();
    assert_eq!(lasting.client.read(10).await, b"still here", "another tenant's session ended with it");
}

#[tokio::test]
async fn a_session_ends_at_the_limit_of_its_tenant_however_much_is_said() {
    let stage = calm().await;
    let limits = [("l7r.session.idle_limit", "0.4"), ("l7r.session.limit", "1.5")];
    let mut desktop = stage.running_in_tenant(&limits).await;
    let mut tunnel = desktop.connected().await;
    let began = std::time::Instant::now();
    let talk = async {
        while tunnel.nx.write_all(&[7; 1000]).await.is_ok() {
            if tunnel.client.data().await.is_none() {
                break;
            }
        }
    };
    talk.await;
    assert!(began.elapsed() > std::time::Duration::from_secs(1), "it ended as idle while it was not");
    desktop.freed().await;
    assert_eq!(desktop.end_reason().await, "it lasted 1.5 s, the limit");
}
