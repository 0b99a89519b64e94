//! That there is a page for everything, in both languages, in the light and in the dark, and on a phone.

use qvd::admin::objects::ALL;

use super::stage::{Stage, called};
use crate::cluster::database::Db;

#[tokio::test]
async fn every_page_opens_with_its_title_and_without_a_complaint_of_the_browser() {
    let stage = Stage::company().await;
    let pages = stage.pages().await;
    assert!(pages.len() > 20, "{pages:?}");
    for page in &pages {
        stage.go(page).await;
        let title = stage.browser.title().await.unwrap();
        let heading = stage.browser.script("return document.querySelector('h1').innerText").await.unwrap();
        assert_eq!(title, format!("{} · QVD", heading.as_str().unwrap()), "{page}");
        assert_ne!(heading, "This does not work", "{page}");
        let current = stage.paths("[aria-current=page]").await;
        let section = format!("/{}", page[1..].split('/').next().unwrap());
        assert_eq!(current, [section], "{page} is part of a section");
        stage.is_content(page).await;
    }
    stage.go("/vm?order=-state,name&columns=name&columns=user&columns=tenant&columns=host&columns=di_in_use&columns=state&columns=user_state").await;
    stage.picture("vms-by-state").await;
    stage.go("/vm/999999").await;
    assert_eq!(stage.browser.title().await.unwrap(), "This does not work · QVD");
}

#[tokio::test]
async fn pages_are_whole_in_both_languages_light_dark_and_on_a_phone() {
    let stage = Stage::company().await;
    let pages = stage.pages().await;
    for (language, phone, dark) in [("en", false, false), ("en", false, true), ("es", false, false), ("es", true, true)]
    {
        stage.browser.language(language).await.unwrap();
        stage.browser.dark(dark).await.unwrap();
        stage.browser.phone(phone.then_some((390, 844))).await.unwrap();
        for page in &pages {
            stage.go(page).await;
            stage.browser.until(&format!("document.documentElement.lang === '{language}'")).await.unwrap();
            // What is wide moves inside its own frame, never the page.
            let fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth";
            stage.browser.until(fits).await.unwrap_or_else(|error| panic!("{page} is too wide: {error}"));
            let (size, light) = (if phone { "phone" } else { "wide" }, if dark { "dark" } else { "light" });
            stage.picture(&format!("{}-{language}-{light}-{size}", called(page))).await;
        }
    }
}

#[tokio::test]
async fn every_field_of_every_list_has_a_spanish_name() {
    let db = Db::new().await;
    let known: Vec<_> =
        include_str!("../../src/wat/spanish.txt").lines().filter_map(|line| line.split_once(" = ")).collect();
    let mut missing = Vec::new();
    for object in ALL {
        let fields = format!(
            "select replace(column_name, '_', ' ') from information_schema.columns
             where table_schema = 'qvd' and table_name = '{}_list'",
            object.name
        );
        let fields = db.rows(&fields).await;
        assert!(!fields.is_empty(), "{}", object.name);
        missing.extend(fields.into_iter().flatten().filter(|field| !known.iter().any(|(english, _)| english == field)));
    }
    missing.sort_unstable();
    missing.dedup();
    assert_eq!(missing, Vec::<String>::new());
}
