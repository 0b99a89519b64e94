//! What the fields of objects look like in JSON: described from the types that the database has, and what comes is checked
//! against the same. Whether a value will do is for the database to say.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use crate::{
    admin::objects::Object,
    db::{Acting, FieldType, List, ListError},
};

use super::problem::Problem;

/// What may be said of an object that is made or changed.
pub struct Fields {
    kind: &'static str,
    fields: Vec<(String, Shape)>,
    /// Of each of these one must be said: an object is named by its id or by its name.
    required: Vec<Vec<String>>,
    new: bool,
}

/// What a field takes.
enum Shape {
    /// A value, also as text.
    Value(FieldType),
    /// Several names, or those to set and those to delete.
    Members,
    /// Custom properties by their keys, or those to set and those to delete.
    Properties,
}

impl Fields {
    /// Of a new object.
    pub async fn of_new(acting: &Acting, list: &List<'_>, object: &'static Object) -> Result<Self, ListError> {
        let mut names: Vec<String> = object.create.iter().map(|(name, _)| (*name).to_owned()).collect();
        let referred: Vec<String> =
            names.iter().filter_map(|name| name.strip_suffix("_id")).map(str::to_owned).collect();
        names.extend(referred);
        if object.name == "di" {
            names.push("move".to_owned());
        }
        let required = object.create.iter().filter(|(_, required)| *required).map(|(name, _)| {
            [Some(*name), name.strip_suffix("_id")].into_iter().flatten().map(str::to_owned).collect()
        });
        Self::of(acting, list, object, names, required.collect(), true).await
    }

    /// Of one that is changed.
    pub async fn of_change(acting: &Acting, list: &List<'_>, object: &'static Object) -> Result<Self, ListError> {
        let names = object.update.iter().map(|name| (*name).to_owned()).collect();
        Self::of(acting, list, object, names, Vec::new(), false).await
    }

    async fn of(
        acting: &Acting,
        list: &List<'_>,
        object: &'static Object,
        names: Vec<String>,
        required: Vec<Vec<String>>,
        new: bool,
    ) -> Result<Self, ListError> {
        let mut fields: Vec<_> =
            acting.settable(object.name).await?.into_iter().map(|(name, kind)| (name, Shape::Value(kind))).collect();
        for name in names {
            if fields.iter().all(|(known, _)| *known != name) {
                let column = list.types().find(|(column, _)| *column == name).map(|(_, kind)| kind);
                let kind = match column {
                    Some(kind) if !name.ends_with("_id") => kind,
                    _ if name.ends_with("_id") => FieldType::Integer,
                    _ if name == "move" => FieldType::Boolean,
                    _ => FieldType::Text,
                };
                fields.push((name, Shape::Value(kind)));
            }
        }
        for part in object.parts {
            let shape = if *part == "properties" { Shape::Properties } else { Shape::Members };
            fields.push(((*part).to_owned(), shape));
        }
        Ok(Self { kind: object.name, fields, required, new })
    }

    /// As a schema.
    pub fn schema(&self) -> Value {
        let properties: Map<_, _> =
            self.fields.iter().map(|(name, shape)| (name.clone(), shape.schema(self.may_be_null(name)))).collect();
        let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
        let (single, either): (Vec<_>, Vec<_>) = self.required.iter().partition(|names| names.len() == 1);
        if !single.is_empty() {
            schema["required"] = single.into_iter().flatten().cloned().collect();
        }
        if !either.is_empty() {
            let any = |names: &Vec<String>| {
                let ways: Vec<_> = names.iter().map(|name| json!({ "required": [name] })).collect();
                json!({ "anyOf": ways })
            };
            schema["allOf"] = either.into_iter().map(any).collect();
        }
        schema
    }

    /// Whether this can be what is meant.
    pub fn check(&self, said: &Map<String, Value>) -> Result<(), Problem> {
        let wrong = |what: String| Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what));
        for (name, value) in said {
            // What there is no field for is refused by the database, which says what there is.
            let shape = self.fields.iter().find(|(known, _)| known == name).map(|(_, shape)| shape);
            if let Some(shape) = shape.filter(|shape| !shape.takes(value, self.may_be_null(name))) {
                return wrong(format!("{name} of a {} is {}", self.kind, shape.meaning()));
            }
        }
        match self.required.iter().find(|names| !names.iter().any(|name| said.contains_key(name))) {
            Some(names) => wrong(format!("a new {} needs {}", self.kind, names.join(" or "))),
            None => Ok(()),
        }
    }

    fn may_be_null(&self, name: &str) -> bool {
        !self.new || !self.required.iter().flatten().any(|known| known == name)
    }
}

impl Shape {
    fn schema(&self, null: bool) -> Value {
        let changes = |set: Value, names: &Value| {
            let sides = json!({ "set": set, "delete": names });
            json!({ "type": "object", "properties": sides, "additionalProperties": false })
        };
        let names = json!({ "type": "array", "items": { "type": "string" } });
        match self {
            Self::Value(kind) => said_as_text(kind, null),
            Self::Members => json!({ "anyOf": [names.clone(), changes(names.clone(), &names)] }),
            Self::Properties => {
                let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
                json!({ "anyOf": [texts.clone(), changes(texts, &names)] })
            }
        }
    }

    fn takes(&self, value: &Value, null: bool) -> bool {
        let names = |value: &Value| value.as_array().is_some_and(|names| names.iter().all(Value::is_string));
        let texts = |value: &Value| value.as_object().is_some_and(|texts| texts.values().all(Value::is_string));
        let changes = |set: &dyn Fn(&Value) -> bool| {
            value.as_object().is_some_and(|sides| {
                sides.iter().all(|(side, value)| match side.as_str() {
                    "set" => set(value),
                    "delete" => names(value),
                    _ => false,
                })
            })
        };
        match self {
            Self::Value(_) if value.is_null() => null,
            Self::Value(FieldType::OneOf(words)) => value.as_str().is_some_and(|word| words.iter().any(|w| w == word)),
            Self::Value(FieldType::Integer | FieldType::Number) => value.is_number() || value.is_string(),
            Self::Value(FieldType::Boolean) => value.is_boolean() || value.is_string(),
            Self::Value(FieldType::Text) => value.is_string(),
            Self::Value(FieldType::Document | FieldType::Several(_)) => true,
            Self::Members => names(value) || changes(&names),
            Self::Properties => texts(value) || changes(&texts),
        }
    }

    fn meaning(&self) -> String {
        match self {
            Self::Value(FieldType::OneOf(words)) => format!("one of {}", words.join(", ")),
            Self::Value(FieldType::Integer) => "a whole number".to_owned(),
            Self::Value(FieldType::Number) => "a number".to_owned(),
            Self::Value(FieldType::Boolean) => "true or false".to_owned(),
            Self::Value(_) => "a text".to_owned(),
            Self::Members => "a list of names, or set and delete with such lists".to_owned(),
            Self::Properties => "texts by their keys, or set with such, and delete with a list of keys".to_owned(),
        }
    }
}

/// A value that is given; it may always be written as text, as people write it.
fn said_as_text(kind: &FieldType, null: bool) -> Value {
    let mut types = match kind {
        FieldType::Integer => vec!["integer", "string"],
        FieldType::Number => vec!["number", "string"],
        FieldType::Boolean => vec!["boolean", "string"],
        _ => return shown(kind, null),
    };
    types.extend(null.then_some("null"));
    json!({ "type": types })
}

/// A value that is shown. What somebody may not see is null.
pub fn shown(kind: &FieldType, null: bool) -> Value {
    let name = match kind {
        FieldType::Text => "string",
        FieldType::Integer => "integer",
        FieldType::Number => "number",
        FieldType::Boolean => "boolean",
        FieldType::Document => return json!({}),
        FieldType::OneOf(words) => {
            let words = words.iter().map(|word| json!(word)).chain(null.then_some(Value::Null));
            return json!({ "enum": words.collect::<Vec<_>>() });
        }
        FieldType::Several(element) => {
            let types: &[&str] = if null { &["array", "null"] } else { &["array"] };
            return json!({ "type": types, "items": shown(element, true) });
        }
    };
    if null { json!({ "type": [name, "null"] }) } else { json!({ "type": name }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_takes_what_its_schema_says_and_nothing_else() {
        let takes = |shape: Shape, value: Value| shape.takes(&value, true);
        let members = || json!({ "set": ["a"], "delete": [] });
        for (good, shape, value) in [
            (true, Shape::Value(FieldType::Integer), json!(3)),
            (true, Shape::Value(FieldType::Integer), json!("3")),
            (false, Shape::Value(FieldType::Integer), json!(true)),
            (false, Shape::Value(FieldType::Text), json!(3)),
            (false, Shape::Value(FieldType::Text), json!({})),
            (true, Shape::Value(FieldType::Text), Value::Null),
            (false, Shape::Value(FieldType::Boolean), json!(1)),
            (false, Shape::Value(FieldType::OneOf(vec!["en".to_owned()])), json!("eo")),
            (true, Shape::Members, members()),
            (false, Shape::Members, json!("a")),
            (false, Shape::Members, json!({ "add": ["a"] })),
            (true, Shape::Properties, json!({ "room": "1" })),
            (false, Shape::Properties, json!({ "room": 1 })),
            (true, Shape::Properties, json!({ "set": { "room": "1" }, "delete": ["floor"] })),
        ] {
            assert_eq!(takes(shape, value.clone()), good, "{value}");
        }
    }
}
