//! Twenty thousand VMs.

use std::time::{Duration, Instant};

use super::stage::{Stage, strings};

const VMS: u32 = 20_000;
/// A click and what it leads to, in a debug build on a busy machine.
const QUICK: Duration = Duration::from_secs(5);

#[tokio::test]
async fn twenty_thousand_vms_are_paged_filtered_sorted_and_chosen_at_once() {
    let stage = Stage::with_many_vms(VMS).await;
    let browser = &stage.browser;
    let names = async || {
        let names = "return [...document.querySelectorAll('tbody td:nth-child(3)')].map(cell => cell.innerText)";
        strings(&browser.script(names).await.unwrap())
    };
    stage.go("/vm?order=name").await;
    assert_eq!(names().await[..3], ["d1", "d10", "d100"]);
    let began = Instant::now();
    browser.click_on("Next ›").await.unwrap();
    browser.until("new URLSearchParams(location.search).get('page') === '2'").await.unwrap();
    assert_eq!(names().await[0], "d10006");
    browser.click_on("‹ Previous").await.unwrap();
    browser.until("!location.search.includes('page')").await.unwrap();
    browser.click("th[aria-sort=ascending] a").await.unwrap();
    browser.until("document.querySelector('th[aria-sort=descending]')").await.unwrap();
    assert_eq!(names().await[..2], ["d9999", "d9998"]);
    browser.fill("#filter", "name~d1999%").await.unwrap();
    browser.click_on("Search").await.unwrap();
    browser.until_it_says("11 in all").await.unwrap();
    let took = began.elapsed();
    assert!(took < 4 * QUICK, "{took:?}");
    // Everything that the filter finds, not what the page shows of it.
    browser.click("[data-choose=all]").await.unwrap();
    browser.until_it_says("11 chosen, 10 on this page").await.unwrap();
    browser.click_on("Block access").await.unwrap();
    assert_eq!(browser.answer(true).await.unwrap(), "Block 11 VMs?");
    browser.until_it_says("11 / 11 done").await.unwrap();
    assert_eq!(stage.db.sql("select count(*) from vm_runtimes where blocked").await.as_deref(), Some("11"));
    stage.go("/vm").await;
    browser.until_it_says("> 1010 in all").await.unwrap();
    browser.click("[data-choose=all]").await.unwrap();
    browser.until_it_says("20000 chosen, 10 on this page").await.unwrap();
    // It is alive all the while.
    browser.until("document.querySelector('#live.on')").await.unwrap();
    stage.db.sql("select vms_block(array(select min(id) from vms), true)").await;
    browser.until("document.querySelector('tbody tr:first-child td.bad')").await.unwrap();
    stage.picture("many-vms").await;
    stage.is_content("/vm").await;
}
