//! Everything without a mouse.

use super::{
    driver::{Browser, keys},
    stage::Stage,
};

/// More stops than any page has before what is looked for.
const MOST: usize = 120;

/// Goes on with the Tab key until the focus is there, and sees that one can see where it is.
async fn tab_to(browser: &Browser, selector: &str) {
    for _ in 0..MOST {
        browser.press(keys::TAB).await.unwrap();
        let seen = browser
            .script(&format!(
                "const at = document.activeElement, style = getComputedStyle(at);
                 return [at.matches({}), at === document.body || style.outlineStyle !== 'none', at.outerHTML.slice(0, 200)]",
                serde_json::json!(selector)
            ))
            .await
            .unwrap();
        assert_eq!(seen[1], true, "the focus is seen at {}", seen[2]);
        if seen[0] == true {
            return;
        }
    }
    panic!("the focus never comes to {selector} on {}", browser.address().await.unwrap());
}

#[tokio::test]
async fn a_link_leads_past_the_navigation() {
    let stage = Stage::with_vms(1).await;
    stage.go("/vm").await;
    stage.browser.press(keys::TAB).await.unwrap();
    let first = stage.browser.script("return document.activeElement.className").await.unwrap();
    assert_eq!(first, "skip", "it comes first");
    stage.browser.press(keys::ENTER).await.unwrap();
    stage.browser.until("document.activeElement.id === 'main'").await.unwrap();
    stage.browser.press(keys::TAB).await.unwrap();
    stage.browser.until("document.getElementById('main').contains(document.activeElement)").await.unwrap();
}

#[tokio::test]
async fn the_keyboard_alone_finds_chooses_and_acts() {
    let stage = Stage::with_vms(12).await;
    let browser = &stage.browser;
    stage.go("/").await;
    tab_to(browser, "nav a[href='/vm']").await;
    browser.press(keys::ENTER).await.unwrap();
    browser.until("location.pathname === '/vm'").await.unwrap();
    tab_to(browser, "#filter").await;
    browser.press("name~d1%").await.unwrap();
    browser.press(keys::ENTER).await.unwrap();
    browser.until("document.querySelectorAll('tbody tr').length === 4").await.unwrap();
    tab_to(browser, "details.columns summary").await;
    browser.press(keys::ENTER).await.unwrap();
    tab_to(browser, "details.columns input[value=description]").await;
    browser.press(keys::SPACE).await.unwrap();
    browser.press(keys::ENTER).await.unwrap();
    browser.until("document.querySelector('th:last-child').innerText === 'Description'").await.unwrap();
    tab_to(browser, "th a[href*='order=name']").await;
    browser.press(keys::ENTER).await.unwrap();
    browser.until("document.querySelector('th[aria-sort=ascending]')").await.unwrap();
    tab_to(browser, "tbody tr:nth-child(2) input[name=id]").await;
    browser.press(keys::SPACE).await.unwrap();
    tab_to(browser, "button[value=block]").await;
    browser.press(keys::ENTER).await.unwrap();
    browser.until("document.querySelectorAll('td.bad').length === 1").await.unwrap();
    let blocked = stage.db.sql("select name from vm_list where blocked").await;
    assert_eq!(blocked.as_deref(), Some("d10"));
}

#[tokio::test]
async fn the_keyboard_alone_makes_changes_and_deletes() {
    let stage = Stage::with_vms(1).await;
    let browser = &stage.browser;
    stage.go("/user").await;
    tab_to(browser, "a.button[href='/user/new']").await;
    browser.press(keys::ENTER).await.unwrap();
    browser.until("location.pathname === '/user/new'").await.unwrap();
    tab_to(browser, "#f-name").await;
    browser.press("zoe").await.unwrap();
    tab_to(browser, "#f-password").await;
    browser.press("a secret").await.unwrap();
    tab_to(browser, "#f-tenant_id").await;
    browser.press("default").await.unwrap();
    tab_to(browser, "form.fields button").await;
    browser.press(keys::ENTER).await.unwrap();
    browser.until_it_says("zoe@default").await.unwrap();
    tab_to(browser, "details.edit summary").await;
    browser.press(keys::SPACE).await.unwrap();
    tab_to(browser, "#f-description").await;
    browser.press("Night shift").await.unwrap();
    tab_to(browser, "form.fields button").await;
    browser.press(keys::ENTER).await.unwrap();
    browser.until("document.querySelector('#facts').innerText.includes('Night shift')").await.unwrap();
    tab_to(browser, "button[value=del]").await;
    browser.press(keys::ENTER).await.unwrap();
    assert_eq!(browser.answer(true).await.unwrap(), "Delete?");
    browser.until("location.pathname === '/user'").await.unwrap();
    assert_eq!(stage.db.sql("select count(*) from users where login = 'zoe'").await.as_deref(), Some("0"));
}
