//! What can be done with objects at the touch of a button.

use crate::admin::objects::Object;

use super::super::visitor::Visitor;

/// A button.
pub struct Verb {
    pub name: &'static str,
    pub title: String,
    pub dangerous: bool,
    /// Asked before it is done with the one that is shown, with one that was chosen, and with `{}` of them.
    pub question: String,
    pub question_one: String,
    pub question_many: String,
}

/// What this administrator may do with them.
pub fn verbs(object: &Object, visitor: &Visitor) -> Vec<Verb> {
    let delete = if object.create.is_empty() { None } else { Some("del") };
    object
        .verbs
        .iter()
        .copied()
        .chain(delete)
        .filter(|verb| visitor.who.can(&acl(object, verb)))
        .map(|name| {
            let dangerous = matches!(name, "del" | "purge" | "stop" | "disconnect");
            let question = |number| visitor.language.question(name, Some((object.name, number)));
            Verb {
                name,
                title: visitor.language.verb(object.name, name),
                dangerous,
                question: visitor.language.question(name, None),
                question_one: question("1"),
                question_many: question("{}"),
            }
        })
        .collect()
}

/// The right that a verb needs.
pub fn acl(object: &Object, verb: &str) -> String {
    if object.name == "property" {
        return "property.manage.".to_owned();
    }
    let detail = match verb {
        "create" => "create.",
        "del" => "delete.",
        "purge" => "purge.",
        "start" | "stop" => "update.state.",
        "disconnect" => "update.disconnect-user.",
        "block" | "unblock" => "update.block.",
        "publish" => "update.publish.",
        _ => "update.",
    };
    format!("{}.{detail}", object.name)
}
