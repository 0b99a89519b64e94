//! Everything that can be done, done by clicking.

use super::stage::Stage;
use crate::cluster::host::Host;

#[tokio::test]
async fn objects_of_every_kind_are_made_changed_and_deleted_by_clicking() {
    let stage = Stage::with_vms(1).await;
    let browser = &stage.browser;
    // Kind, name, what else is typed, what is chosen.
    type Fields = &'static [(&'static str, &'static str)];
    let kinds: [(&str, &str, &str, Fields, Fields); 8] = [
        ("tenant", "name", "lyceum", &[("block", "25")], &[]),
        ("osf", "name", "Lab", &[("memory", "512")], &[("tenant_id", "lyceum")]),
        ("user", "name", "zoe", &[("password", "a secret")], &[("tenant_id", "default")]),
        ("vm", "name", "second", &[], &[("user_id", "alice"), ("osf_id", "desk")]),
        ("host", "name", "n2", &[("address", "10.9.0.2")], &[]),
        ("role", "name", "Helpers", &[], &[("tenant_id", "default")]),
        ("administrator", "name", "ann", &[("password", "a secret")], &[("tenant_id", "lyceum")]),
        ("property", "key", "building", &[], &[("tenant_id", "default")]),
    ];
    for (kind, key, name, typed, chosen) in kinds {
        stage.go(&format!("/{kind}")).await;
        browser.click_on("New").await.unwrap();
        for (field, value) in typed.iter().chain(&[(key, name), ("description", "Made by clicking")]) {
            if kind != "vm"
                || *field != "description"
                || browser.script("return !!document.querySelector('#f-description')").await.unwrap() == true
            {
                browser.fill(&format!("#f-{field}"), value).await.unwrap();
            }
        }
        for (field, title) in chosen {
            browser.choose(&format!("#f-{field}"), title).await.unwrap();
        }
        browser.click_on("Make").await.unwrap();
        browser.until("document.querySelector('#facts')").await.unwrap_or_else(|error| panic!("{kind}: {error}"));
        browser.until_it_says("Made by clicking").await.unwrap();
        browser.click_on("Change").await.unwrap();
        browser.fill("#f-description", "Changed by clicking").await.unwrap();
        browser.click_on("Save").await.unwrap();
        browser.until("document.querySelector('#facts').innerText.includes('Changed by clicking')").await.unwrap();
        stage.is_content(kind).await;
    }
    // What uses others goes before them.
    for (kind, _, name, ..) in kinds.iter().rev() {
        let called = if *kind == "property" { "key" } else { "name" };
        stage.go_to_object(kind, &format!("id from {kind}_list where {called} = '{name}'")).await;
        browser.click_on("Delete").await.unwrap();
        assert_eq!(browser.answer(false).await.unwrap(), "Delete?");
        assert_eq!(
            stage.db.sql(&format!("select count(*) from {kind}_list where {called} = '{name}'")).await.unwrap(),
            "1"
        );
        browser.click_on("Delete").await.unwrap();
        browser.answer(true).await.unwrap();
        browser.until(&format!("location.pathname === '/{kind}'")).await.unwrap();
        stage.db.wait_for(&format!("select count(*) from {kind}_list where {called} = '{name}'"), "0").await;
        stage.is_content(kind).await;
    }
}

#[tokio::test]
async fn what_is_refused_is_said_and_what_was_typed_is_kept() {
    let stage = Stage::with_vms(1).await;
    let browser = &stage.browser;
    stage.go("/user/new").await;
    browser.fill("#f-name", "alice").await.unwrap();
    browser.fill("#f-password", "a secret").await.unwrap();
    browser.fill("#f-description", "The second").await.unwrap();
    browser.choose("#f-tenant_id", "default").await.unwrap();
    browser.click_on("Make").await.unwrap();
    browser.until("document.querySelector('[role=alert]').innerText.includes('alice exists already')").await.unwrap();
    let kept = "return [document.querySelector('#f-name').value, document.querySelector('#f-description').value]";
    assert_eq!(browser.script(kept).await.unwrap(), serde_json::json!(["alice", "The second"]));
    stage.picture("refused").await;
    stage.go_to_object("user", "id from users where login = 'alice'").await;
    browser.click_on("Change").await.unwrap();
    browser.fill("#f-name", "a/b").await.unwrap();
    browser.click_on("Save").await.unwrap();
    browser.until("document.querySelector('[role=alert]')").await.unwrap();
    browser.until("document.querySelector('details.edit').open").await.unwrap();
}

#[tokio::test]
async fn vms_start_and_stop_at_a_click_and_the_page_follows() {
    let stage = Stage::with_vms(1).await;
    let host = Host::new(&stage.db, &[]);
    let _hkd = host.started().await;
    let browser = &stage.browser;
    stage.go_to_object("vm", "id from vms").await;
    browser.until("document.querySelector('#live.on')").await.unwrap();
    let state = |state: &str| {
        format!("[...document.querySelectorAll('#facts dd')].some(fact => fact.innerText.endsWith('{state}'))")
    };
    browser.until(&state("stopped")).await.unwrap();
    browser.click_on("Start").await.unwrap();
    browser.until(&state("running")).await.unwrap();
    browser.click_on("Stop").await.unwrap();
    assert_eq!(browser.answer(true).await.unwrap(), "Stop?");
    browser.until(&state("stopped")).await.unwrap();
    browser.click_on("Block access").await.unwrap();
    browser.until("document.querySelector('#facts .bad')").await.unwrap();
    browser.click_on("Allow access").await.unwrap();
    browser.until("document.querySelector('#facts') && !document.querySelector('#facts .bad')").await.unwrap();
    stage.is_content("the page of the VM").await;
}

#[tokio::test]
async fn many_are_told_of_one_by_one() {
    let stage = Stage::with_vms(25).await;
    let host = Host::new(&stage.db, &[]);
    let _hkd = host.started().await;
    let browser = &stage.browser;
    let all = async |verb: &str, question: &str| {
        browser.click("[data-choose=all]").await.unwrap();
        browser.until("document.querySelector('#chosen.some')").await.unwrap();
        browser.click_on(verb).await.unwrap();
        assert_eq!(browser.answer(true).await.unwrap(), question);
    };
    stage.go("/vm?order=name").await;
    browser.until("document.querySelector('#live.on')").await.unwrap();
    browser.click("input[data-all]").await.unwrap();
    browser.click_on("Block access").await.unwrap();
    assert_eq!(browser.answer(true).await.unwrap(), "Block 10 VMs?");
    browser.until("document.querySelectorAll('td.bad').length === 10").await.unwrap();
    assert!(browser.address().await.unwrap().ends_with("/vm?order=name"), "the list is as it was");
    stage.go("/vm?filter=blocked%3D0").await;
    all("Start", "Start 15 VMs?").await;
    browser.until_it_says("15 / 15 done").await.unwrap();
    stage.db.wait_for("select count(*) from vm_runtimes where vm_state = 'running'", "15").await;
    browser.click_on("Back").await.unwrap();
    browser.until("document.querySelectorAll('td.good').length === 10").await.unwrap();
    stage.go("/vm").await;
    all("Delete", "Delete 25 VMs?").await;
    browser.until_it_says("10 / 25").await.unwrap();
    browser.until("document.querySelectorAll('tbody tr').length === 15").await.unwrap();
    browser.click("details summary").await.unwrap();
    browser.until("document.querySelectorAll('.many li').length === 10").await.unwrap();
    stage.picture("what-became-of-it").await;
    browser.click_on("Back").await.unwrap();
    all("Stop", "Stop 15 VMs?").await;
    browser.until_it_says("15 / 15 done").await.unwrap();
    stage.db.wait_for("select count(*) from vm_runtimes where vm_state = 'stopped'", "15").await;
    stage.go("/vm").await;
    all("Delete", "Delete 15 VMs?").await;
    browser.until_it_says("15 / 15 done").await.unwrap();
    stage.go("/vm").await;
    browser.until_it_says("Nothing is found.").await.unwrap();
    stage.is_content("/vm").await;
}
