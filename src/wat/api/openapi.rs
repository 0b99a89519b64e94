//! The description of the API as OpenAPI 3.1, made from the catalogue of objects that everything else is made from.

use axum::Json;
use serde_json::{Map, Value, json};

use crate::admin::objects::{ALL, Object};

use super::{super::visitor::Visitor, collection};

pub async fn document(_: Visitor) -> Json<Value> {
    Json(made())
}

fn made() -> Value {
    let mut paths = Map::new();
    let mut add = |path: String, method: &str, operation: Value| {
        let path = paths.entry(path).or_insert_with(|| json!({}));
        path[method] = operation;
    };
    add("/api/v1/openapi.json".into(), "get", operation("openapi", "This description", &[], None, (200, any())));
    add("/api/v1/me".into(), "get", operation("me", "Who asks, and what he may do", &[], None, (200, any())));
    add("/api/v1/statistics".into(), "get", operation("statistics", "Counters", &[], None, (200, any())));
    let why = operation("vm_why", "What a VM is waiting for, in words", &[id()], None, (200, any()));
    add("/api/v1/vm/{id}/why".into(), "get", why);
    let key = parameter("key", "path", "Of a setting", json!({ "type": "string" }));
    let tenant = parameter("tenant", "query", "Of a tenant in place of everybody", json!({ "type": "string" }));
    let whose = [key, tenant];
    let path = || "/api/v1/config/{key}".to_owned();
    let values = json!({ "type": "array", "items": any() });
    add(path(), "get", operation("config_look", "The values of a setting", &whose, None, (200, values)));
    let value = json!({
        "type": "object", "required": ["value"], "additionalProperties": false,
        "properties": { "value": { "type": "string" } },
    });
    add(path(), "put", operation("config_set", "Set it", &whose, Some(value), (204, Value::Null)));
    add(path(), "delete", operation("config_reset", "Back to the default", &whose, None, (204, Value::Null)));
    for (form, kind) in [("csv", "text/csv"), ("json", "application/json")] {
        add(format!("/api/v1/log/export.{form}"), "get", export(form, kind));
    }
    for object in ALL {
        // Those have an address of their own for what comes.
        if object.name != "staging" {
            describe(object, &mut add);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "QVD", "version": env!("CARGO_PKG_VERSION"),
            "description": "Administration of virtual desktops. Filters are those of the command line; what somebody may see and do follows from his roles.",
        },
        "security": [{ "basic": [] }],
        "components": {
            "securitySchemes": { "basic": { "type": "http", "scheme": "basic" } },
            "schemas": {
                "Problem": {
                    "type": "object", "required": ["status", "title", "detail"],
                    "properties": {
                        "status": { "type": "integer" }, "title": { "type": "string" }, "detail": { "type": "string" },
                        "code": { "type": "string", "description": "SQLSTATE" },
                        "hint": { "type": "string", "description": "What to do about it" },
                    },
                },
            },
            "responses": {
                "Problem": {
                    "description": "Refused, and why",
                    "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
                },
                "Unknown": {
                    "description": "Nobody, or a password that is wrong",
                    "content": { "text/plain": { "schema": { "type": "string" } } },
                },
            },
        },
        "paths": paths,
    })
}

fn describe(object: &Object, add: &mut impl FnMut(String, &str, Value)) {
    let name = object.name;
    let (all, one) = (format!("/api/v1/{name}"), format!("/api/v1/{name}/{{id}}"));
    let text = || json!({ "type": "string" });
    let asked = [
        parameter("filter", "query", "Which, as on the command line: state=running,name~desk%", text()),
        parameter(
            "order",
            "query",
            "Fields, separated by commas; with a - in front from the last to the first",
            text(),
        ),
        parameter("columns", "query", "Fields to show, separated by commas", text()),
        parameter(
            "limit",
            "query",
            "Rows of a page",
            json!({ "type": "integer", "minimum": 1, "maximum": collection::MOST, "default": collection::LIMIT }),
        ),
        parameter("cursor", "query", "What the page before said is next", text()),
    ];
    let page = json!({
        "type": "object", "required": ["items", "next"],
        "properties": { "items": { "type": "array", "items": any() }, "next": { "type": ["string", "null"] } },
    });
    add(
        all.clone(),
        "get",
        operation(&format!("{name}_list"), &format!("A list of each {name}"), &asked, None, (200, page)),
    );
    if !object.create.is_empty() {
        let names = object.create.iter().map(|(name, _)| *name);
        let required: Vec<_> = object.create.iter().filter(|(_, required)| *required).map(|(name, _)| *name).collect();
        let made = json!({ "type": "object", "required": ["id"], "properties": { "id": { "type": "integer" } } });
        let body = fields(names, &required);
        add(
            all.clone(),
            "post",
            operation(&format!("{name}_create"), &format!("Make a {name}"), &[], Some(body), (201, made)),
        );
        add(
            one.clone(),
            "delete",
            operation(&format!("{name}_delete"), &format!("Delete a {name}"), &[id()], None, (204, Value::Null)),
        );
    }
    if object.columns.contains(&"id") {
        add(
            one.clone(),
            "get",
            operation(&format!("{name}_look"), &format!("What is known of a {name}"), &[id()], None, (200, any())),
        );
    }
    if !object.update.is_empty() {
        let body = fields(object.update.iter().copied(), &[]);
        add(
            one,
            "patch",
            operation(&format!("{name}_change"), &format!("Change a {name}"), &[id()], Some(body), (200, any())),
        );
    }
    for verb in object.verbs {
        let path = format!("/api/v1/{name}/{{id}}/{verb}");
        add(
            path,
            "post",
            operation(&format!("{name}_{verb}"), &format!("{verb} a {name}"), &[id()], None, (204, Value::Null)),
        );
    }
    let verbs: Vec<_> = object
        .verbs
        .iter()
        .copied()
        .chain((!object.update.is_empty()).then_some("set"))
        .chain((!object.create.is_empty()).then_some("del"))
        .collect();
    if verbs.is_empty() {
        return;
    }
    let action = json!({
        "type": "object", "required": ["verb"], "additionalProperties": false,
        "properties": {
            "verb": { "enum": verbs },
            "ids": { "type": "array", "items": { "type": "integer", "format": "int32" } },
            "filter": { "type": "string" },
            "arguments": { "type": "object" },
        },
    });
    let results = json!({
        "type": "object", "required": ["results"],
        "properties": { "results": { "type": "array", "items": {
            "type": "object", "required": ["id", "problem"],
            "properties": {
                "id": { "type": "integer" },
                "problem": { "anyOf": [{ "$ref": "#/components/schemas/Problem" }, { "type": "null" }] },
            },
        } } },
    });
    let title = format!("Do something with many of kind {name}; each is done or refused for itself");
    add(
        format!("{all}/actions"),
        "post",
        operation(&format!("{name}_actions"), &title, &[], Some(action), (200, results)),
    );
}

/// The log as one long answer.
fn export(form: &str, kind: &str) -> Value {
    let asked = [
        ("from", "Not before: a date with a time, in UTC unless it says an offset"),
        ("to", "Not after"),
        ("administrator", "Part of the name of who did it"),
        ("action", "What was done, as in the field verb"),
        ("kind", "What it was done with, as in the field qvd_object"),
        ("object", "Part of its name, or its number"),
        ("outcome", "success or refused"),
        ("address", "With what the address begins from which it was done"),
        ("filter", "Conditions as on the command line"),
    ]
    .map(|(name, meaning)| parameter(name, "query", meaning, json!({ "type": "string" })));
    let title = "The entries of the log that are wanted, the newest first; an answer without its end is none";
    let mut operation = operation(&format!("log_export_{form}"), title, &asked, None, (200, Value::Null));
    operation["responses"]["200"]["content"] = json!({ kind: {} });
    operation
}

/// Fields by name; their types are for the database to say.
fn fields<'a>(names: impl Iterator<Item = &'a str>, required: &[&str]) -> Value {
    let properties: Map<_, _> = names.map(|name| (name.to_owned(), json!({}))).collect();
    json!({ "type": "object", "required": required, "properties": properties })
}

fn any() -> Value {
    json!({ "type": "object" })
}

fn id() -> Value {
    parameter("id", "path", "Its number", json!({ "type": "integer", "minimum": 0 }))
}

fn parameter(name: &str, place: &str, meaning: &str, schema: Value) -> Value {
    json!({ "name": name, "in": place, "required": place == "path", "description": meaning, "schema": schema })
}

fn operation(
    name: &str,
    title: &str,
    parameters: &[Value],
    body: Option<Value>,
    (status, schema): (u16, Value),
) -> Value {
    let mut done = json!({ "description": "Done" });
    if !schema.is_null() {
        done["content"] = json!({ "application/json": { "schema": schema } });
    }
    let refused = json!({ "$ref": "#/components/responses/Problem" });
    let mut operation = json!({
        "operationId": name, "summary": title, "parameters": parameters,
        "responses": {
            status.to_string(): done,
            "401": { "$ref": "#/components/responses/Unknown" },
            "4XX": refused, "5XX": refused,
        },
    });
    if let Some(schema) = body {
        operation["requestBody"] = json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    }
    operation
}
