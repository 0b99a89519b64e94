//! Which columns a list shows: those that its address names, else those that the administrator chose on such a device, else
//! what his tenant or the program has. What is chosen is kept in the database, so that it is there in the next browser.

use std::sync::Arc;

use axum::{
    Form,
    extract::{Path, State},
    http::{HeaderMap, header},
    response::Response,
};

use crate::{admin::objects::Object, db::Device};

use super::{
    super::{server::Wat, visitor::Visitor},
    Kind, acting,
    image::done,
    kind,
    list::Wanted,
};

/// What a browser says that it runs on.
pub fn device(headers: &HeaderMap) -> Device {
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    if agent.is_some_and(|agent| agent.contains("Mobi")) { Device::Mobile } else { Device::Desktop }
}

/// What is shown unless the address says something else: what everybody sees, without what was hidden and with what was added.
pub fn shown<'a>(object: &Object, said: &[(String, bool)], fields: impl Iterator<Item = &'a str>) -> Vec<String> {
    let fields: Vec<&str> = fields.collect();
    let hidden = |name: &str| said.iter().any(|(field, shown)| field == name && !shown);
    let usual = object.columns.iter().copied().filter(|name| !hidden(name));
    let added = said.iter().filter(|(name, shown)| *shown && !object.columns.contains(&&**name));
    // One that there was once may be gone.
    let added = added.map(|(name, _)| name.as_str()).filter(|name| fields.contains(name));
    usual.chain(added).map(str::to_owned).collect()
}

/// Remembers what was ticked. The list is shown with it, under an address that names no columns.
pub async fn choose(
    State(wat): State<Arc<Wat>>,
    visitor: Visitor,
    Path(name): Kind,
    headers: HeaderMap,
    Form(mut pairs): Form<Vec<(String, String)>>,
) -> Response {
    if pairs.iter().any(|(name, _)| name == "usual") {
        pairs.retain(|(name, _)| name != "columns");
    }
    let Wanted { columns, filter, order, .. } = Wanted::read(pairs);
    let back = Wanted { filter, order, page: 1, columns: Vec::new() }.address(&name);
    let made = async {
        let object = kind(&name)?;
        let acting = acting(&wat, &visitor).await?;
        let list = acting.list(object.name).await?;
        let said = acting.columns(object.name, device(&headers)).await?;
        let (ticked, others): (Vec<&str>, Vec<&str>) =
            list.fields().partition(|field| columns.iter().any(|column| column == field));
        // What would be seen without a word, or was spoken of before.
        let spoken_of = |field: &&str| object.columns.contains(field) || said.iter().any(|(name, _)| name == field);
        let hidden = others.into_iter().filter(|field| !ticked.is_empty() && spoken_of(field));
        let hidden: Vec<String> = hidden.map(|field| list.view_field(field)).collect();
        let shown: Vec<String> = ticked.iter().map(|field| list.view_field(field)).collect();
        acting.choose_columns(object.name, device(&headers), &shown, &hidden).await?;
        drop(list);
        Ok(acting.finish().await?)
    };
    done(&visitor, made.await, &back)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::admin::objects::OSF;

    #[test]
    fn what_was_hidden_goes_and_what_was_added_comes_last_if_it_is_still_there() {
        let said = [("cpus", true), ("memory", false), ("gone", true), ("name", true)];
        let said = said.map(|(name, shown)| (name.to_owned(), shown));
        let fields = ["id", "name", "cpus", "memory"];
        let with = shown(&OSF, &said, fields.into_iter());
        assert_eq!(with, ["id", "name", "overlay", "user_storage", "tenant", "number_of_vms", "number_of_dis", "cpus"]);
        assert_eq!(shown(&OSF, &[], fields.into_iter()), OSF.columns);
    }

    #[test]
    fn phones_say_what_they_are() {
        let of = |agent: &'static str| {
            device(&HeaderMap::from_iter([(header::USER_AGENT, HeaderValue::from_static(agent))]))
        };
        assert_eq!(of("Mozilla/5.0 (Linux; Android 10; K) Chrome/131.0.0.0 Mobile Safari/537.36"), Device::Mobile);
        assert_eq!(of("Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0"), Device::Desktop);
        assert_eq!(device(&HeaderMap::new()), Device::Desktop);
    }
}
