//! A value as a page shows it.

use super::super::text::Language;

/// A value.
pub struct Cell {
    pub text: String,
    /// Where it leads.
    pub href: Option<String>,
    /// What kind of news it is, or that it is a number.
    pub class: Option<&'static str>,
}

impl Cell {
    pub fn new(field: &str, value: &str, href: Option<String>, language: Language) -> Self {
        let class = class(field, value);
        let text = match value {
            "true" => language.text("yes"),
            "false" => language.text("no"),
            _ if matches!(field, "type_of_action" | "qvd_object") => language.text(value),
            _ if class.is_some_and(|class| class != "number") => language.text(value),
            _ => value,
        };
        Self { text: text.to_owned(), href, class }
    }
}

fn class(field: &str, value: &str) -> Option<&'static str> {
    match (field, value) {
        ("state" | "user_state", "running" | "connected" | "published") => Some("good"),
        ("state" | "user_state", "starting" | "stopping" | "connecting" | "uploading" | "verifying") => Some("busy"),
        ("state", "zombie" | "lost" | "debugging" | "fail") | ("blocked", "true") => Some("bad"),
        _ if field.starts_with("number_of")
            || matches!(field, "id" | "memory" | "user_storage" | "size" | "bytes_up" | "bytes_down" | "block") =>
        {
            Some("number")
        }
        _ => None,
    }
}
