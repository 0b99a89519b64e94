//! What is chosen on one page of a list is chosen on the others.

use serde_json::json;

use super::{
    driver::{Browser, keys},
    stage::Stage,
};

const SAID: &str = "return document.querySelector('#chosen [role=status]').innerText";

/// Waits until the bar says so.
async fn says(browser: &Browser, words: &str) {
    let said = format!("document.querySelector('#chosen [role=status]')?.innerText === {}", json!(words));
    browser.until(&said).await.unwrap();
}

async fn ticked(browser: &Browser) -> u64 {
    let boxes = "return document.querySelectorAll('tbody input[name=id]:checked').length";
    browser.script(boxes).await.unwrap().as_u64().unwrap()
}

async fn blocked(stage: &Stage) -> String {
    stage.db.sql("select string_agg(name, ' ' order by name) from vm_list where blocked").await.unwrap_or_default()
}

#[tokio::test]
async fn rows_chosen_on_one_page_stay_chosen_on_the_next_and_are_acted_on_together() {
    let stage = Stage::with_vms(37).await;
    let browser = &stage.browser;
    stage.go("/vm?order=name").await;
    says(browser, "0 chosen").await;
    assert_eq!(browser.script("return document.querySelector('button[value=start]').disabled").await.unwrap(), true);
    browser.click("input[data-all]").await.unwrap();
    says(browser, "10 chosen").await;
    browser.click_on("Next ›").await.unwrap();
    says(browser, "10 chosen, 0 on this page").await;
    browser.click("tbody tr:nth-child(1) input[name=id]").await.unwrap();
    browser.click("tbody tr:nth-child(2) input[name=id]").await.unwrap();
    says(browser, "12 chosen, 2 on this page").await;
    stage.picture("chosen-over-pages").await;
    browser.click_on("‹ Previous").await.unwrap();
    says(browser, "12 chosen, 10 on this page").await;
    // One of them is not.
    browser.click("tbody tr:nth-child(1) input[name=id]").await.unwrap();
    says(browser, "11 chosen, 9 on this page").await;
    let mixed = "return document.querySelector('input[data-all]').indeterminate";
    assert_eq!(browser.script(mixed).await.unwrap(), true);
    // Under another filter, too, and when the page is made anew because something changes elsewhere.
    stage.go("/vm?filter=name~d2%25&order=name").await;
    browser.until("document.querySelector('#live.on')").await.unwrap();
    says(browser, "11 chosen, 1 on this page").await;
    stage.db.sql("update vms set description = 'elsewhere' where name = 'd2'; select vms_block(array(select id from vms where name = 'd28'), true)").await;
    browser.until("document.querySelector('td.bad')").await.unwrap();
    says(browser, "11 chosen, 1 on this page").await;
    assert_eq!(ticked(browser).await, 1);
    // Whoever says no keeps what he chose.
    browser.click_on("Block access").await.unwrap();
    assert_eq!(browser.answer(false).await.unwrap(), "Block 11 VMs?");
    says(browser, "11 chosen, 1 on this page").await;
    browser.click_on("Block access").await.unwrap();
    browser.answer(true).await.unwrap();
    browser.until_it_says("11 / 11 done").await.unwrap();
    browser.click("details summary").await.unwrap();
    browser.until_it_says("alice@default/d10").await.unwrap();
    assert_eq!(blocked(&stage).await, "d10 d11 d12 d13 d14 d15 d16 d17 d18 d19 d2 d28");
    browser.click_on("Back").await.unwrap();
    says(browser, "0 chosen").await;
    stage.is_content("the list").await;
}

#[tokio::test]
async fn all_that_a_filter_finds_are_chosen_at_once_and_nothing_is_again() {
    let stage = Stage::with_vms(25).await;
    let browser = &stage.browser;
    stage.go("/vm?filter=name~d1%25").await;
    browser.click("[data-choose=all]").await.unwrap();
    says(browser, "11 chosen, 10 on this page").await;
    // More of another filter are added, and some may be taken away again.
    stage.go("/vm?filter=name~d2%25").await;
    says(browser, "11 chosen, 0 on this page").await;
    browser.click("input[data-all]").await.unwrap();
    says(browser, "18 chosen, 7 on this page").await;
    let none = "document.querySelector('[data-choose=all]').hidden";
    browser.until(none).await.unwrap();
    // In another list nothing is.
    stage.go("/user").await;
    says(browser, "0 chosen").await;
    stage.go("/vm").await;
    browser.until("document.querySelector('#chosen [role=status]').innerText.startsWith('18 chosen')").await.unwrap();
    browser.click_on("Choose none").await.unwrap();
    says(browser, "0 chosen").await;
    assert_eq!(ticked(browser).await, 0);
    let focus = "return document.activeElement.hasAttribute('data-all')";
    assert_eq!(browser.script(focus).await.unwrap(), true, "the focus is not lost");
    // The keyboard does the same.
    browser.press(keys::SPACE).await.unwrap();
    says(browser, "10 chosen").await;
}

#[tokio::test]
async fn numbers_and_words_agree_in_spanish_on_a_phone() {
    let stage = Stage::with_vms(12).await;
    let browser = &stage.browser;
    browser.language("es").await.unwrap();
    browser.phone(Some((390, 844))).await.unwrap();
    for dark in [false, true] {
        browser.dark(dark).await.unwrap();
        stage.go("/vm?order=name").await;
        browser.click("tbody tr:nth-child(1) input[name=id]").await.unwrap();
        says(browser, "1 elegida").await;
        browser.click("tbody tr:nth-child(2) input[name=id]").await.unwrap();
        says(browser, "2 elegidas").await;
        stage.picture(if dark { "chosen-es-dark-phone" } else { "chosen-es-light-phone" }).await;
        let fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth";
        browser.until(fits).await.unwrap();
        browser.click_on("Bloquear el acceso").await.unwrap();
        assert_eq!(browser.answer(false).await.unwrap(), "¿Bloquear 2 máquinas virtuales?");
        browser.click_on("No elegir nada").await.unwrap();
        says(browser, "0 elegidas").await;
    }
    stage.go("/user").await;
    browser.click("tbody input[name=id]").await.unwrap();
    says(browser, "1 elegido").await;
}

#[tokio::test]
async fn without_our_scripts_rows_of_a_page_or_all_that_the_filter_finds_are_chosen() {
    let stage = Stage::with_vms(25).await;
    let browser = &stage.browser;
    browser.block(&["*/static/*.js"]).await.unwrap();
    stage.go("/vm?filter=name~d2%25&order=name").await;
    assert_eq!(browser.script(SAID).await.unwrap(), "", "what does nothing is not shown");
    browser.click("tbody tr:nth-child(1) input[name=id]").await.unwrap();
    browser.click_on("Block access").await.unwrap();
    browser.until("document.querySelectorAll('td.bad').length === 1").await.unwrap();
    assert_eq!(blocked(&stage).await, "d2");
    stage.go("/vm?filter=blocked%3D0").await;
    browser.click("input[name=all]").await.unwrap();
    browser.click_on("Block access").await.unwrap();
    browser.until_it_says("24 / 24 done").await.unwrap();
}

#[tokio::test]
async fn columns_are_chosen_by_clicking_and_stay() {
    let stage = Stage::with_vms(1).await;
    let browser = &stage.browser;
    stage.go("/vm?filter=name~d%25&order=name").await;
    browser.click_on("Columns").await.unwrap();
    browser.click("input[name=columns][value=description]").await.unwrap();
    browser.click("input[name=columns][value=host]").await.unwrap();
    stage.picture("columns").await;
    browser.click_on("Show these from now on").await.unwrap();
    let last = "document.querySelector('th:last-child').innerText";
    browser.until(&format!("{last} === 'Description'")).await.unwrap();
    assert!(browser.address().await.unwrap().ends_with("/vm?filter=name%7Ed%25&order=name"), "the list is as it was");
    stage.go("/vm").await;
    browser.until(&format!("{last} === 'Description'")).await.unwrap();
    browser.until("![...document.querySelectorAll('th')].some(th => th.innerText === 'Host')").await.unwrap();
    browser.click_on("Columns").await.unwrap();
    browser.click_on("The usual ones").await.unwrap();
    browser.until(&format!("{last} === 'User state'")).await.unwrap();
    stage.is_content("/vm").await;
}
