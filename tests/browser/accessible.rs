//! What axe, the accessibility checker, finds on every page.

use std::fs;

use serde_json::Value;

use super::stage::{Stage, installed};

/// What axe found, without what is minor.
const CHECK: &str = "axe.run(document, {resultTypes: ['violations']}).then(
    found => done(found.violations
        .filter(rule => ['serious', 'critical'].includes(rule.impact))
        .map(rule => rule.id + ': ' + rule.nodes.map(node => node.html.slice(0, 160) + ' ' + node.failureSummary).join(' | '))),
    error => done([String(error)]));";

async fn found(stage: &Stage, axe: &str) -> Vec<String> {
    stage.browser.script(axe).await.unwrap();
    let found: Value = stage.browser.script_until_done(CHECK).await.unwrap();
    super::stage::strings(&found)
}

#[tokio::test]
async fn no_page_has_a_serious_barrier_light_or_dark_english_or_spanish() {
    let stage = Stage::company().await;
    let axe = fs::read_to_string(installed("axe/axe.min.js")).unwrap();
    let pages = stage.pages().await;
    let mut barriers = Vec::new();
    for (language, dark, phone) in [("en", false, false), ("es", true, false), ("en", true, true)] {
        stage.browser.language(language).await.unwrap();
        stage.browser.dark(dark).await.unwrap();
        stage.browser.phone(phone.then_some((390, 844))).await.unwrap();
        for page in pages.iter().map(String::as_str).chain(["/vm/999999", "/vm?filter=((("]) {
            stage.go(page).await;
            // What is folded is a part of the page, too.
            stage
                .browser
                .script("document.querySelectorAll('details').forEach(part => part.open = true)")
                .await
                .unwrap();
            let found = found(&stage, &axe).await;
            barriers.extend(found.into_iter().map(|barrier| format!("{page} ({language}, dark: {dark}): {barrier}")));
        }
    }
    assert!(barriers.is_empty(), "{}", barriers.join("\n"));
    // It is not blind.
    stage.browser.script("document.querySelector('main').innerHTML += '<button></button>'").await.unwrap();
    assert!(!found(&stage, &axe).await.is_empty());
}
