//! What changes elsewhere changes on the open page.

use super::stage::{Stage, logged_in};

#[tokio::test]
async fn what_one_browser_changes_the_other_shows_without_a_reload() {
    let stage = Stage::company().await;
    let other = logged_in(&stage.wat, &[]).await;
    other.go(&stage.address("/user?filter=name%3Dana.vidal&columns=name&columns=blocked")).await.unwrap();
    other.until("document.querySelector('#live.on')").await.unwrap();
    // A page that is loaded again forgets this.
    other.script("window.unbroken = true").await.unwrap();
    stage.go_to_object("user", "id from users where login = 'ana.vidal'").await;
    stage.browser.click_on("Block logins").await.unwrap();
    other.until("document.querySelector('tbody td.bad')?.innerText.includes('yes')").await.unwrap();
    stage.browser.click_on("Allow logins").await.unwrap();
    other.until("document.querySelector('tbody') && !document.querySelector('tbody td.bad')").await.unwrap();
    stage.browser.click_on("Change").await.unwrap();
    stage.browser.fill("#f-name", "ana.gil").await.unwrap();
    stage.browser.click_on("Save").await.unwrap();
    other.until_it_says("Nothing is found.").await.unwrap();
    assert_eq!(other.script("return window.unbroken").await.unwrap(), true);
}

#[tokio::test]
async fn an_open_page_follows_a_vm_and_keeps_what_was_ticked_and_typed() {
    let stage = Stage::with_vms(12).await;
    stage.go("/vm").await;
    stage.browser.until("document.querySelector('#live.on')").await.unwrap();
    stage.browser.click("tbody tr:nth-child(2) input[name=id]").await.unwrap();
    stage.browser.click("tbody tr:nth-child(4) input[name=id]").await.unwrap();
    stage.db.sql("select vms_block(array(select id from vms where name = 'd1'), true)").await;
    stage.browser.until("document.querySelector('tbody tr:nth-child(1) td.bad')").await.unwrap();
    let focus = "return document.activeElement === document.querySelector('tbody tr:nth-child(4) input')";
    assert_eq!(stage.browser.script(focus).await.unwrap(), true);
    stage.browser.fill("#filter", "half of a fil").await.unwrap();
    stage.db.sql("select vms_block(array(select id from vms where name = 'd3'), true)").await;
    stage.browser.until("document.querySelector('tbody tr:nth-child(3) td.bad')").await.unwrap();
    let kept = "return [document.querySelector('tbody tr:nth-child(2) input[name=id]').checked,
        document.querySelector('tbody tr:nth-child(4) input[name=id]').checked,
        document.getElementById('filter').value, document.activeElement.id]";
    assert_eq!(stage.browser.script(kept).await.unwrap(), serde_json::json!([true, true, "half of a fil", "filter"]));
    stage.go_to_object("vm", "id from vms where name = 'd2'").await;
    stage.browser.until("document.querySelector('#live.on')").await.unwrap();
    stage.browser.click_on("Change").await.unwrap();
    stage.browser.fill("#f-description", "half of a desc").await.unwrap();
    stage.db.sql("select vms_block(array(select id from vms where name = 'd2'), true)").await;
    stage.browser.until("document.querySelector('#facts .bad')").await.unwrap();
    let typed = stage.browser.script("return document.querySelector('#f-description').value").await.unwrap();
    assert_eq!(typed, "half of a desc");
}

#[tokio::test]
async fn the_page_of_something_that_was_deleted_says_so() {
    let stage = Stage::with_vms(1).await;
    stage.go_to_object("vm", "id from vms").await;
    stage.browser.until("document.querySelector('#live.on')").await.unwrap();
    stage.db.sql("delete from vms").await;
    stage.browser.until_it_says("There is no such page").await.unwrap();
}

#[tokio::test]
async fn the_overview_follows_and_what_was_unfolded_stays_so() {
    let stage = Stage::company().await;
    stage.go("/").await;
    stage.browser.until("document.querySelector('#live.on')").await.unwrap();
    let blocked = "[...document.querySelectorAll('.ring li.bad a')].map(link => link.innerText).join()";
    stage.browser.until(&format!("{blocked}.includes('2 blocked')")).await.unwrap();
    stage.browser.click("#logins-table summary").await.unwrap();
    stage.db.sql("select users_block(array(select id from users where login = 'ana.vidal'), true)").await;
    stage.browser.until(&format!("{blocked}.includes('3 blocked')")).await.unwrap();
    stage.browser.until("document.querySelector('#logins-table[open]')").await.unwrap();
    let minutes =
        stage.browser.script("return document.querySelectorAll('#logins-table tbody tr').length").await.unwrap();
    assert_eq!(minutes, 60);
    stage.browser.until_it_says("Last: ").await.unwrap();
    stage.is_content("the overview").await;
}

#[tokio::test]
async fn the_log_is_searched_by_its_form_and_an_entry_opened() {
    let stage = Stage::company().await;
    stage.go_to_object("user", "id from users where login = 'ana.vidal'").await;
    for description in ["Third floor", "Fourth floor"] {
        stage.browser.click_on("Change").await.unwrap();
        stage.browser.fill("#f-description", description).await.unwrap();
        stage.browser.click_on("Save").await.unwrap();
        stage
            .browser
            .until(&format!("document.querySelector('#facts')?.innerText.includes('{description}')"))
            .await
            .unwrap();
    }
    stage.go("/log").await;
    stage.browser.fill("#object", "ana.vidal").await.unwrap();
    stage.browser.choose("#action", "Update").await.unwrap();
    stage.browser.fill("#administrator", "root").await.unwrap();
    stage.browser.click_on("Search").await.unwrap();
    stage.browser.until("document.querySelectorAll('#entries tbody tr').length === 2").await.unwrap();
    assert!(stage.browser.address().await.unwrap().contains("object=ana.vidal"));
    let kept = "return [document.querySelector('#action').value, document.querySelector('#object').value]";
    assert_eq!(stage.browser.script(kept).await.unwrap(), serde_json::json!(["update", "ana.vidal"]));
    stage.browser.click("#entries tbody tr:first-child a").await.unwrap();
    stage.browser.until_it_says("Third floor").await.unwrap();
    stage.browser.until_it_says("Fourth floor").await.unwrap();
    stage.picture("log-changes").await;
    stage.is_content("an entry of the log").await;
}
