//! From a click to a picture: a VM started in the browser, and its desktop in the user's client.

use crate::desktop::{Desk, Installation, Viewer};

use super::stage::{keep_picture, logged_in, web_tool};

#[tokio::test]
async fn a_vm_started_in_the_browser_shows_its_desktop_in_the_client_and_the_page_follows() {
    let at = Installation::shared().await;
    let desk = Desk::animated(&at, "walter").await;
    let wat = web_tool(&at).await;
    let browser = logged_in(&wat, &[]).await;
    browser.go(&format!("http://{}/vm/{}", wat.address(), desk.vm)).await.unwrap();
    browser.until("document.querySelector('#live.on')").await.unwrap();
    browser.click_on("Start").await.unwrap();
    browser.until("document.querySelector('#facts .good')?.innerText.includes('running')").await.unwrap();
    let viewer = Viewer::connect(&desk).await;
    viewer.sees_motion("client's start until the desktop of a VM started in the browser").await;
    browser.until("document.querySelector('#facts').innerText.includes('connected')").await.unwrap();
    browser.until("[...document.querySelectorAll('#facts .good')].length === 2").await.unwrap();
    keep_picture(&browser, "vm-in-use").await;
    browser.click_on("Disconnect").await.unwrap();
    browser.answer(true).await.unwrap();
    viewer.ended().await;
    browser.until("document.querySelector('#facts').innerText.includes('disconnected')").await.unwrap();
    browser.click_on("Stop").await.unwrap();
    browser.answer(true).await.unwrap();
    browser.until("document.querySelector('#facts').innerText.includes('stopped')").await.unwrap();
    desk.wait("stopped").await;
}
