//! The description of the API as OpenAPI 3.1: the addresses that there are, and what their objects hold, of which the database
//! is asked.

use std::sync::Arc;

use axum::{Json, Router, extract::State};
use serde_json::{Map, Value, json};

use crate::{
    admin::objects::ALL,
    db::{Acting, ListError},
};

use super::{
    super::{pages::acting, server::Wat, visitor::Visitor},
    addresses::{Addresses, Operation},
    problem::Problem,
    shape::{Fields, shown},
};

/// What answers at all these addresses, the description among them, and at others under `/api/v1`.
pub fn finish(mut addresses: Addresses) -> Router<Arc<Wat>> {
    let described = Operation::get("/openapi.json", "openapi", "This description");
    // It describes itself, so it is made when it is asked for, of what there was in the end.
    let paths = Arc::new(std::sync::OnceLock::<Map<String, Value>>::new());
    let known = paths.clone();
    let document = move |State(wat): State<Arc<Wat>>, visitor: Visitor| {
        let paths = known.get().cloned().unwrap_or_default();
        async move {
            let acting = acting(&wat, &visitor).await?;
            let schemas = schemas(&acting).await?;
            acting.finish().await?;
            Ok::<_, Problem>(Json(made(paths, schemas)))
        }
    };
    addresses.add(described.gives(200, json!({ "type": "object" })), document);
    let (router, all) = addresses.finish();
    let _ = paths.set(all);
    router.route("/api/v1/{*rest}", axum::routing::any(missing)).route("/api/v1", axum::routing::any(missing))
}

async fn missing() -> Problem {
    Problem::missing("there is no such address; see /api/v1/openapi.json")
}

fn made(paths: Map<String, Value>, schemas: Map<String, Value>) -> Value {
    let problem = json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } });
    let header = |meaning: &str| json!({ "description": meaning, "required": true, "schema": { "type": "string" } });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "QVD", "version": env!("CARGO_PKG_VERSION"),
            "description": "Administration of virtual desktops. Filters are those of the command line; what somebody may see and do follows from his roles. What he may not see is null.",
        },
        "security": [{ "basic": [] }],
        "components": {
            "securitySchemes": { "basic": { "type": "http", "scheme": "basic" } },
            "schemas": schemas,
            "responses": {
                "Problem": { "description": "Refused, and why", "content": problem },
                "Unknown": {
                    "description": "Nobody, or a password that is wrong", "content": problem,
                    "headers": { "WWW-Authenticate": header("How to log in") },
                },
                "Wait": {
                    "description": "Too many logins failed", "content": problem,
                    "headers": { "Retry-After": header("Seconds to wait") },
                },
            },
        },
        "paths": paths,
    })
}

/// What objects of each kind hold, and what can be said of new ones and to change them.
async fn schemas(acting: &Acting) -> Result<Map<String, Value>, ListError> {
    let mut schemas = Map::new();
    schemas.insert("Problem".to_owned(), json!({
        "type": "object", "required": ["status", "title", "detail"],
        "properties": {
            "status": { "type": "integer" }, "title": { "type": ["string", "null"] }, "detail": { "type": "string" },
            "code": { "type": "string", "description": "SQLSTATE" },
            "hint": { "type": "string", "description": "What to do about it" },
        },
    }));
    schemas.insert(
        "Results".to_owned(),
        json!({
            "type": "object", "required": ["results"],
            "properties": { "results": { "type": "array", "items": {
                "type": "object", "required": ["id", "problem"],
                "properties": {
                    "id": { "type": "integer" },
                    "name": { "type": ["string", "null"], "description": "As far as it was known" },
                    "problem": { "anyOf": [{ "$ref": "#/components/schemas/Problem" }, { "type": "null" }] },
                },
            } } },
        }),
    );
    let text = json!({ "type": ["string", "null"] });
    schemas.insert("Texts".to_owned(), json!({ "type": "object", "additionalProperties": text }));
    for object in ALL {
        let list = acting.list(object.name).await?;
        let properties: Map<_, _> = list.types().map(|(name, kind)| (name.to_owned(), shown(&kind, true))).collect();
        // Custom properties are fields, too.
        let known = json!({ "type": "object", "properties": properties, "additionalProperties": text });
        schemas.insert(object.name.to_owned(), known);
        if !object.create.is_empty() {
            schemas.insert(format!("new_{}", object.name), Fields::of_new(acting, &list, object).await?.schema());
        }
        if !object.update.is_empty() {
            schemas
                .insert(format!("changed_{}", object.name), Fields::of_change(acting, &list, object).await?.schema());
        }
    }
    Ok(schemas)
}
