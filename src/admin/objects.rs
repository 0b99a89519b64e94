//! What can be administered: the kinds of objects, which of their fields a list shows, which can be set, what can be done
//! with them, and by which words people know all that. The fields themselves are the columns of the views in
//! `sql/views`, and what may be set to what is for the SQL functions to say.

mod catalogue;

use crate::model::filter::{Comparison, Condition, Filter};

pub use catalogue::*;

/// A kind of objects.
#[derive(Debug)]
pub struct Object {
    /// Its word, which is also that of its view, `<name>_list`.
    pub name: &'static str,
    /// What a list shows unless something else is wanted.
    pub columns: &'static [&'static str],
    /// What can be said of a new one, and whether it must be.
    pub create: &'static [(&'static str, bool)],
    /// What can be changed.
    pub update: &'static [&'static str],
    /// What can be done with them besides.
    pub verbs: &'static [&'static str],
    /// What belongs to them and is set like a field: custom properties, tags, roles, …
    pub parts: &'static [&'static str],
    /// Other words for fields.
    aliases: &'static [(&'static str, &'static str)],
    /// The field with the name by which one is known everywhere, as `login@tenant/name`, and a sign that such a name has.
    full_name: Option<(&'static str, char)>,
}

impl Object {
    /// The kind that is called so.
    #[must_use]
    pub fn called(name: &str) -> Option<&'static Self> {
        ALL.iter().copied().find(|object| object.name == name)
    }

    /// The field that is meant by a word.
    #[must_use]
    pub fn field<'a>(&self, word: &'a str) -> &'a str {
        self.aliases.iter().find(|(alias, _)| *alias == word).map_or(word, |(_, field)| field)
    }

    /// Whether it can be set, by its name or by the id or name of what it refers to.
    #[must_use]
    pub fn has(&self, field: &str) -> bool {
        let reference = format!("{field}_id");
        let is = |name: &str| name == field || name == reference;
        self.create.iter().any(|(name, _)| is(name)) || self.update.iter().any(|name| is(name))
    }

    /// The same filter in the words of the view.
    #[must_use]
    pub fn resolve(&self, filter: Filter) -> Filter {
        let all = |parts: Vec<Filter>| parts.into_iter().map(|part| self.resolve(part)).collect();
        match filter {
            Filter::All(parts) => Filter::All(all(parts)),
            Filter::Any(parts) => Filter::Any(all(parts)),
            Filter::Not(part) => Filter::Not(Box::new(self.resolve(*part))),
            Filter::Field(word, condition) => {
                let field = match (&condition, self.full_name) {
                    (Condition::Is(Comparison::Equal, name), Some((full, sign)))
                        if word == "name" && name.contains(sign) =>
                    {
                        full
                    }
                    _ => self.field(&word),
                };
                Filter::Field(field.to_owned(), condition)
            }
        }
    }
}
