//! What administrators change of themselves: the language, and the password by whoever knows the old one.

use std::sync::Arc;

use askama::Template;
use axum::{
    Form,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    super::{server::Wat, visitor::Visitor},
    Page, Problem, acting, sentence, show, status,
};

#[derive(Template)]
#[template(path = "profile.html")]
struct ProfilePage {
    page: Page,
    /// Code, title, and whether it is the one.
    languages: Vec<(&'static str, String, bool)>,
    done: Option<String>,
    problem: Option<String>,
}

#[derive(Deserialize)]
pub struct Typed {
    language: Option<String>,
    #[serde(default)]
    old: String,
    #[serde(default)]
    new: String,
    #[serde(default)]
    again: String,
}

pub async fn profile(State(wat): State<Arc<Wat>>, visitor: Visitor) -> Response {
    let made = look(&wat, &visitor, None, None).await;
    show(&visitor, made)
}

pub async fn change_profile(State(wat): State<Arc<Wat>>, visitor: Visitor, Form(typed): Form<Typed>) -> Response {
    let t = |english| visitor.language.text(english);
    let mut changes = Map::new();
    if let Some(language) = typed.language {
        changes.insert("language".to_owned(), Value::String(language));
    }
    let password = !typed.old.is_empty() || !typed.new.is_empty();
    if password {
        let wrong = if typed.new != typed.again {
            Some(t("The new passwords differ."))
        } else {
            match wat.logins.knows(&wat.database, &visitor, typed.old).await {
                Ok(true) => None,
                Ok(false) => Some(t("The old password is another one.")),
                Err(refusal) => {
                    return refusal.into_response();
                }
            }
        };
        if let Some(wrong) = wrong {
            return refused(&wat, &visitor, StatusCode::UNPROCESSABLE_ENTITY, wrong.to_owned()).await;
        }
        changes.insert("password".to_owned(), Value::String(typed.new));
    }
    let made = async {
        let acting = acting(&wat, &visitor).await?;
        acting.profile_update(&Value::Object(changes)).await?;
        acting.finish().await
    };
    match made.await {
        // With the old password the browser would be sent away from the next page.
        Ok(()) if password => {
            let done = t("The password is changed. The browser asks for it with the next page.").to_owned();
            let made = look(&wat, &visitor, Some(done), None).await;
            show(&visitor, made)
        }
        Ok(()) => Redirect::to("/profile").into_response(),
        Err(error) => refused(&wat, &visitor, status(&error), sentence(&error)).await,
    }
}

async fn refused(wat: &Wat, visitor: &Visitor, status: StatusCode, why: String) -> Response {
    let made = look(wat, visitor, None, Some(why)).await;
    let found = made.is_ok();
    let page = show(visitor, made);
    if found { (status, page).into_response() } else { page }
}

async fn look(
    wat: &Wat,
    visitor: &Visitor,
    done: Option<String>,
    problem: Option<String>,
) -> Result<ProfilePage, Problem> {
    let acting = acting(wat, visitor).await?;
    let chosen = acting.profile().await?.language;
    acting.finish().await?;
    let page = Page::new(visitor, visitor.language.text("My profile"), "profile");
    let languages = [
        ("default", page.t("as the tenant says")),
        ("auto", page.t("as the browser says")),
        ("en", page.t("English")),
        ("es", page.t("Español")),
    ]
    .map(|(code, title)| (code, title.to_owned(), code == chosen));
    Ok(ProfilePage { languages: languages.into(), page, done, problem })
}
