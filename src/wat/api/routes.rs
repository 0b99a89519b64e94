//! Every address of the API but those of files, with what answers there: for each kind of objects what the catalogue says, and
//! what some have besides.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde_json::{Value, json};

use crate::admin::objects::{ALL, Object};

use super::{
    super::{live, pages, server::Wat, visitor::Visitor},
    addresses::{Addresses, Operation, number, object, schema, text, truth},
    collection, item, log,
    problem::Problem,
    settings, single,
};

type Wats = State<Arc<Wat>>;

/// Adds them all.
pub fn add(to: &mut Addresses) {
    to.add(Operation::get("/me", "me", "Who asks, and what he may do").gives(200, who()), me);
    let counters = Operation::get("/statistics", "statistics", "Counters, as far as they are for who asks");
    to.add(counters.gives(200, json!({ "type": "object" })), statistics);
    let changes =
        Operation::get("/changes", "changes", "Every visible change as it happens: server-sent events, without an end")
            .gives_as(200, "text/event-stream", text());
    to.add(changes, live::stream_changes);
    add_settings(to);
    add_log(to);
    for object in ALL {
        add_kind(to, object);
    }
    add_vms(to);
    add_images(to);
    add_others(to);
}

fn who() -> Value {
    let acls = json!({ "type": "array", "items": text() });
    let members =
        json!({ "id": number(), "name": text(), "tenant_id": { "type": "integer" }, "tenant": text(), "acls": acls });
    object(members, &["id", "name", "tenant_id", "tenant", "acls"])
}

/// Who asks, and what he may do.
async fn me(visitor: Visitor) -> Json<Value> {
    let who = &visitor.who;
    Json(json!({ "id": who.id, "name": who.name, "tenant_id": who.tenant_id, "tenant": who.tenant, "acls": who.acls }))
}

async fn statistics(State(wat): Wats, visitor: Visitor) -> Result<Json<Value>, Problem> {
    let acting = pages::acting(&wat, &visitor).await?;
    let statistics = acting.statistics().await?;
    acting.finish().await?;
    Ok(Json(statistics))
}

fn add_settings(to: &mut Addresses) {
    let of = |operation: Operation| operation.query("tenant", "Of a tenant in place of everybody", text());
    let values = json!({ "type": "array", "items": schema("config") });
    let path = "/config/{key}";
    to.add(of(Operation::get(path, "config_look", "The values of a setting")).gives(200, values), settings::look);
    let set = of(Operation::put(path, "config_set", "Set it"));
    to.add(set.takes(object(json!({ "value": text() }), &["value"])).says_nothing(204, "Done"), settings::set);
    let reset = of(Operation::delete(path, "config_reset", "Back to the default"));
    to.add(reset.says_nothing(204, "Done"), settings::reset);
}

/// The log as one long answer.
fn add_log(to: &mut Addresses) {
    let export = |form: &str| {
        let title = "The entries of the log that are wanted, the newest first; an answer without its end is none";
        Operation::get(&format!("/log/export.{form}"), &format!("log_export_{form}"), title)
            .query("from", "Not before: a date with a time, in UTC unless it says an offset", text())
            .query("to", "Not after", text())
            .query("administrator", "Part of the name of who did it", text())
            .query("action", "What was done, as in the field verb", text())
            .query("kind", "What it was done with, as in the field qvd_object", text())
            .query("object", "Part of its name, or its number", text())
            .query("outcome", "success or refused", text())
            .query("address", "With what the address begins from which it was done", text())
            .query("filter", "Conditions as on the command line", text())
    };
    to.add(export("csv").gives_as(200, "text/csv", text()), log::csv);
    let entries = json!({ "type": "array", "items": { "type": "object" } });
    to.add(export("json").gives(200, entries), log::json);
}

fn add_kind(to: &mut Addresses, of: &'static Object) {
    let name = of.name;
    let (all, one) = (format!("/{name}"), format!("/{name}/{{id}}"));
    to.add(listed(&all, name), move |wat, visitor, asked| collection::list(wat, visitor, asked, of));
    if !of.create.is_empty() && name != "staging" {
        let made = Operation::post(&all, &format!("{name}_create"), &format!("Make a {name}"))
            .takes(schema(&format!("new_{name}")))
            .gives(201, object(json!({ "id": number() }), &["id"]))
            .tells(201, "Location", "Where it is");
        to.add(made, move |wat, visitor, body| collection::create(wat, visitor, body, of));
        let deleted = Operation::delete(&one, &format!("{name}_delete"), &format!("Delete a {name}"));
        let delete = move |wat, visitor, id, headers| item::delete(wat, visitor, id, headers, of);
        to.add(if_match(deleted).says_nothing(204, "Done"), delete);
    }
    if of.columns.contains(&"id") {
        let seen = Operation::get(&one, &format!("{name}_look"), &format!("What is known of a {name}"))
            .header("If-None-Match", "Nothing is sent if it is still this version", text())
            .gives(200, schema(name))
            .tells(200, "ETag", "Names this version")
            .says_nothing(304, "It is still that version");
        to.add(seen, move |wat, visitor, id, headers| item::look(wat, visitor, id, headers, of));
    }
    if !of.update.is_empty() {
        let changed = Operation::patch(&one, &format!("{name}_change"), &format!("Change what is said of a {name}"))
            .takes(schema(&format!("changed_{name}")))
            .gives(200, schema(name))
            .tells(200, "ETag", "Names the new version");
        let change = move |wat, visitor, id, headers, body| item::change(wat, visitor, id, headers, body, of);
        to.add(if_match(changed), change);
    }
    for verb in of.verbs {
        let told = Operation::post(&format!("{one}/{verb}"), &format!("{name}_{verb}"), &format!("{verb} a {name}"));
        to.add(told.says_nothing(204, "Done"), move |wat, visitor, id| item::act(wat, visitor, id, of, verb));
    }
    let verbs: Vec<_> = collection::verbs(of).collect();
    if !verbs.is_empty() {
        let title = format!("Do something with many of kind {name}; each is done or refused for itself");
        let told = Operation::post(&format!("{all}/actions"), &format!("{name}_actions"), &title);
        let act = move |wat, visitor, body| collection::act(wat, visitor, body, of);
        to.add(told.takes(action(&verbs)).gives(200, schema("Results")), act);
    }
    if matches!(name, "vm" | "user" | "osf" | "di" | "tenant" | "host") {
        let title = format!(
            "Which {name} is called so, as on the command line; a tenant may be left out where it is not needed"
        );
        let found = Operation::get(&format!("{all}/named"), &format!("{name}_named"), &title)
            .required_query("name", "login@tenant/vm, osf@tenant/version and so on", text())
            .gives(200, object(json!({ "id": number() }), &["id"]));
        to.add(found, move |wat, visitor, asked| single::named(wat, visitor, asked, of));
    }
}

fn listed(path: &str, name: &str) -> Operation {
    let page = json!({
        "type": "object", "required": ["items", "next"], "additionalProperties": false,
        "properties": {
            "items": { "type": "array", "items": { "anyOf": [schema(name), schema("Texts")] } },
            "next": { "type": ["string", "null"], "description": "The cursor of the next page" },
            "count": { "type": "integer", "description": "Of all pages, if it was asked for" },
        },
    });
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": collection::MOST, "default": collection::LIMIT });
    Operation::get(path, &format!("{name}_list"), &format!("A list of each {name}"))
        .query("filter", "Which, as on the command line: state=running,name~desk%", text())
        .query("order", "Fields, separated by commas; with a - in front from the last to the first", text())
        .query("columns", "Fields to show, separated by commas; custom properties are fields, too", text())
        .query("limit", "Rows of a page", limit)
        .query("cursor", "What the page before said is next", text())
        .query("text", "Values as people read them, each a text", truth())
        .query("count", "Say how many there are on all pages", truth())
        .gives(200, page)
}

fn if_match(operation: Operation) -> Operation {
    operation
        .header("If-Match", "Nothing is done unless it is still the version that this ETag names", text())
        .refuses(412, "It was changed meanwhile")
}

fn action(verbs: &[&str]) -> Value {
    let members = json!({
        "verb": { "enum": verbs },
        "ids": { "type": "array", "items": { "type": "integer", "minimum": i32::MIN, "maximum": i32::MAX } },
        "filter": { "type": ["string", "null"], "description": "In place of ids" },
        "arguments": { "type": "object", "description": "The changes, if the verb is set" },
    });
    object(members, &["verb"])
}

fn add_vms(to: &mut Addresses) {
    let why = Operation::get("/vm/{id}/why", "vm_why", "What a VM is waiting for, in words and as facts");
    to.add(
        why.gives(200, object(json!({ "why": text(), "facts": { "type": "object" } }), &["why", "facts"])),
        single::why,
    );
    let said = json!({ "answered": truth(), "said": text(), "last": { "type": "integer" } });
    let title = "What a VM said on its console; whoever asks watches it for a minute, and its node sends what comes";
    let console = Operation::get("/vm/{id}/console", "vm_console", title)
        .query("after", "What was last when it was asked before", json!({ "type": "integer", "minimum": 0 }))
        .gives(200, object(said, &["answered", "said", "last"]));
    to.add(console, single::console);
    let expire = Operation::put(
        "/vm/{id}/expiration",
        "vm_expire",
        "Let the present run of a VM expire; without times it does not",
    )
    .takes(times())
    .gives(200, times());
    to.add(expire, single::expire);
}

/// When users are told to log out, and when VMs are stopped.
fn times() -> Value {
    let time = json!({ "type": ["string", "null"], "description": "A time, or + and an interval from now" });
    object(json!({ "soft": time, "hard": time }), &[])
}

fn add_images(to: &mut Addresses) {
    let path = "/di/{id}/tags/{tag}";
    let given = Operation::put(path, "di_tag", "Give an image a tag; one that is published takes it from the other");
    to.add(given.says_nothing(204, "Done"), |wat, visitor, named| single::tag(wat, visitor, named, true));
    let taken = Operation::delete(path, "di_untag", "Take a tag away");
    to.add(taken.says_nothing(204, "Done"), |wat, visitor, named| single::tag(wat, visitor, named, false));
    let retry = Operation::post("/di/{id}/retry", "di_retry", "Make an image once more that failed");
    to.add(retry.says_nothing(204, "Done"), single::retry);
    let maybe = json!({ "type": ["string", "null"] });
    let affected = object(
        json!({
            "id": number(), "vm": text(), "state": maybe, "user_state": maybe, "host": maybe, "version": maybe,
            "expiration_soft": maybe, "expiration_hard": maybe,
        }),
        &["id", "vm"],
    );
    let title = "The VMs that are up with another image and would start from this one next; times in UTC";
    let affects = Operation::get("/di/{id}/affected", "di_affected", title);
    to.add(affects.gives(200, json!({ "type": "array", "items": affected })), single::affected);
    let rollout = Operation::post("/di/{id}/rollout", "di_rollout", "Publish an image and have those VMs expire");
    to.add(rollout.takes(times()).says_nothing(204, "Done"), single::rollout);
    let refresh = Operation::post("/staging/refresh", "staging_refresh", "Have the staging directories listed anew");
    to.add(refresh.says_nothing(204, "Done"), single::refresh);
    let fresh = Operation::get("/staging/refresh", "staging_fresh", "Whether all of them were listed since");
    to.add(fresh.gives(200, object(json!({ "fresh": truth() }), &["fresh"])), single::fresh);
}

fn add_others(to: &mut Addresses) {
    let stop = Operation::post("/host/{id}/stop", "host_stop", "Stop a node with all its VMs");
    to.add(stop.says_nothing(204, "It was told"), single::stop);
    let released = object(json!({ "released": { "type": "array", "items": number() } }), &["released"]);
    let release = Operation::post("/host/{id}/release", "host_release", "Free the VMs of a node that is switched off");
    to.add(release.gives(200, released), single::release);
    let settings = object(
        json!({
            "user": text(), "had_one": truth(), "required": truth(), "digits": number(), "interval": number(),
            "t0": { "type": "integer" },
        }),
        &["user", "had_one", "required", "digits", "interval", "t0"],
    );
    let secret = object(json!({ "secret": { "type": "string", "pattern": "^[A-Z2-7]{16,}$" } }), &["secret"]);
    let enrol = Operation::put("/user/{id}/totp", "user_totp", "Give a user a secret for one-time passwords");
    to.add(enrol.takes(secret).gives(200, settings.clone()), single::enrol);
    let disenrol = Operation::delete("/user/{id}/totp", "user_totp_remove", "Take it away");
    to.add(disenrol.gives(200, settings), single::disenrol);
}
