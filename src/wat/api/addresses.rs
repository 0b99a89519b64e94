//! What can be asked for under which address, with what is said of it, so that neither is there without the other: the
//! description (OpenAPI 3.1) is made of what is added here, and so is the router.

use std::sync::Arc;

use axum::{
    Router,
    handler::Handler,
    http::Method,
    routing::{MethodFilter, MethodRouter, on},
};
use serde_json::{Map, Value, json};

use super::super::server::Wat;

/// Addresses and their descriptions.
#[derive(Default)]
pub struct Addresses {
    router: Router<Arc<Wat>>,
    paths: Map<String, Value>,
}

/// What an address does when it is asked with a method.
pub struct Operation {
    filter: MethodFilter,
    method: &'static str,
    path: String,
    said: Value,
}

impl Addresses {
    /// Answers there.
    pub fn add<H: Handler<T, Arc<Wat>>, T: 'static>(&mut self, operation: Operation, handler: H) {
        let Operation { filter, method, path, said } = operation;
        let way: MethodRouter<Arc<Wat>> = on(filter, handler);
        self.router = std::mem::take(&mut self.router).route(&path, way);
        self.paths.entry(path).or_insert_with(|| json!({}))[method] = said;
    }

    /// What answers, and what is said of it.
    pub fn finish(self) -> (Router<Arc<Wat>>, Map<String, Value>) {
        (self.router, self.paths)
    }
}

impl Operation {
    /// Only these methods are asked with.
    fn new(method: &Method, path: &str, name: &str, title: &str) -> Self {
        let (filter, method) = match *method {
            Method::POST => (MethodFilter::POST, "post"),
            Method::PUT => (MethodFilter::PUT, "put"),
            Method::PATCH => (MethodFilter::PATCH, "patch"),
            Method::DELETE => (MethodFilter::DELETE, "delete"),
            Method::HEAD => (MethodFilter::HEAD, "head"),
            _ => (MethodFilter::GET, "get"),
        };
        let refused = json!({ "$ref": "#/components/responses/Problem" });
        let said = json!({
            "operationId": name, "summary": title, "parameters": [],
            "responses": {
                "401": { "$ref": "#/components/responses/Unknown" },
                "429": { "$ref": "#/components/responses/Wait" },
                "4XX": refused, "5XX": refused,
            },
        });
        let mut operation = Self { filter, method, path: format!("/api/v1{path}"), said };
        for part in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
            let schema = if part == "id" && !path.starts_with("/staging/") { number() } else { text() };
            operation = operation.parameter(part, "path", "Which", schema);
        }
        operation
    }

    pub fn get(path: &str, name: &str, title: &str) -> Self {
        Self::new(&Method::GET, path, name, title)
    }

    pub fn head(path: &str, name: &str, title: &str) -> Self {
        Self::new(&Method::HEAD, path, name, title)
    }

    pub fn post(path: &str, name: &str, title: &str) -> Self {
        Self::new(&Method::POST, path, name, title)
    }

    pub fn put(path: &str, name: &str, title: &str) -> Self {
        Self::new(&Method::PUT, path, name, title)
    }

    pub fn patch(path: &str, name: &str, title: &str) -> Self {
        Self::new(&Method::PATCH, path, name, title)
    }

    pub fn delete(path: &str, name: &str, title: &str) -> Self {
        Self::new(&Method::DELETE, path, name, title)
    }

    fn parameter(mut self, name: &str, place: &str, meaning: &str, schema: Value) -> Self {
        let parameter = json!({
            "name": name, "in": place, "required": place == "path", "description": meaning, "schema": schema,
        });
        if let Some(parameters) = self.said["parameters"].as_array_mut() {
            parameters.push(parameter);
        }
        self
    }

    /// It may be asked with this behind the question mark.
    pub fn query(self, name: &str, meaning: &str, schema: Value) -> Self {
        self.parameter(name, "query", meaning, schema)
    }

    /// And with this it must be.
    pub fn required_query(self, name: &str, meaning: &str, schema: Value) -> Self {
        self.query(name, meaning, schema).required()
    }

    fn required(mut self) -> Self {
        if let Some(last) = self.said["parameters"].as_array_mut().and_then(|all| all.last_mut()) {
            last["required"] = true.into();
        }
        self
    }

    /// It may be asked with this header.
    pub fn header(self, name: &str, meaning: &str, schema: Value) -> Self {
        self.parameter(name, "header", meaning, schema)
    }

    /// And this one it must have.
    pub fn required_header(self, name: &str, meaning: &str, schema: Value) -> Self {
        self.header(name, meaning, schema).required()
    }

    /// It takes JSON.
    pub fn takes(self, schema: Value) -> Self {
        self.takes_as("application/json", schema)
    }

    /// It takes something else.
    pub fn takes_as(mut self, media: &str, schema: Value) -> Self {
        self.said["requestBody"] = json!({ "required": true, "content": { media: { "schema": schema } } });
        self
    }

    /// It answers so when it is done, with JSON.
    pub fn gives(self, status: u16, schema: Value) -> Self {
        self.gives_as(status, "application/json", schema)
    }

    /// The same with something else.
    pub fn gives_as(mut self, status: u16, media: &str, schema: Value) -> Self {
        self.said["responses"][status.to_string()] =
            json!({ "description": "Done", "content": { media: { "schema": schema } } });
        self
    }

    /// It answers without a word.
    pub fn says_nothing(mut self, status: u16, meaning: &str) -> Self {
        self.said["responses"][status.to_string()] = json!({ "description": meaning });
        self
    }

    /// It refuses with this for a reason of its own.
    pub fn refuses(mut self, status: u16, meaning: &str) -> Self {
        let content = json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } });
        self.said["responses"][status.to_string()] = json!({ "description": meaning, "content": content });
        self
    }

    /// Its answer has this header.
    pub fn tells(mut self, status: u16, name: &str, meaning: &str) -> Self {
        self.said["responses"][status.to_string()]["headers"][name] =
            json!({ "description": meaning, "required": true, "schema": text() });
        self
    }
}

/// Any text.
pub fn text() -> Value {
    json!({ "type": "string" })
}

/// A number of the database.
pub fn number() -> Value {
    json!({ "type": "integer", "minimum": 0, "maximum": i32::MAX })
}

/// Yes or no.
pub fn truth() -> Value {
    json!({ "type": "boolean" })
}

/// An object with these and no other members, of which some must be there.
pub fn object(members: Value, required: &[&str]) -> Value {
    json!({ "type": "object", "required": required, "properties": members, "additionalProperties": false })
}

/// What the document says somewhere else.
pub fn schema(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}
