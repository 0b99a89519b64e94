//! The language in which objects are chosen and changed on a command line, that of classic QVD's `qa4`.
//!
//! ```text
//! filter  = all { ";" all }                          any of them
//! all     = term { "," term }                        all of them
//! term    = "!" term | "(" filter ")" | field test | value of field "name"
//! test    = ( "=" | "!=" | "<>" | "<" | "<=" | ">" | ">=" | "~" ) value
//!         | ( "=" | "!=" ) "[" ( value { "," value } | value ":" value ) "]"
//! changes = key "=" ( value | "[" value { "," value } "]" ) { "," … }
//! ```
//!
//! Words and values may be quoted, with `'` or `"`; a backslash takes the meaning from the character behind it. Blanks
//! around them do not count.

use thiserror::Error;

use crate::model::filter::{Comparison, Condition, Filter};

/// A filter or a change that is not written as it must be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("“{text}” cannot be understood: {expected} is expected {}", place(.rest))]
pub struct Misspelt {
    text: String,
    rest: String,
    expected: &'static str,
}

fn place(rest: &str) -> String {
    if rest.is_empty() { "at the end".to_owned() } else { format!("at “{rest}”") }
}

/// A new value of a field or property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// One.
    One(String),
    /// Several: `[a,b]`.
    Many(Vec<String>),
}

/// What `name=x,state=[running,starting]` means. Nothing means everything.
///
/// # Errors
/// Says where it is wrong.
pub fn filter(text: &str) -> Result<Filter, Misspelt> {
    let mut reader = Reader::new(text);
    reader.blanks();
    if reader.rest.is_empty() {
        return Ok(Filter::All(Vec::new()));
    }
    let filter = reader.any(0)?;
    reader.end("“,” or “;”")?;
    Ok(filter)
}

/// A filter as people would write it: `filter` reads the same from it. What nobody can write is written so that it is refused.
#[must_use]
pub fn text(filter: &Filter) -> String {
    if filter.is_everything() { String::new() } else { written(filter) }
}

fn written(filter: &Filter) -> String {
    let joined = |parts: Vec<String>, by: &str| format!("({})", parts.join(by));
    match filter {
        Filter::All(parts) => joined(parts.iter().filter(|part| !part.is_everything()).map(written).collect(), ","),
        Filter::Any(parts) => joined(parts.iter().map(written).collect(), ";"),
        Filter::Not(part) => format!("!{}", written(part)),
        Filter::Field(name, condition) => {
            let name = quote(name);
            match condition {
                Condition::Is(comparison, value) => {
                    let sign = COMPARISONS.iter().find(|(_, known)| known == comparison).map_or("", |(sign, _)| sign);
                    format!("{name}{sign}{}", quote(value))
                }
                Condition::OneOf(values) => {
                    format!("{name}=[{}]", values.iter().map(|value| quote(value)).collect::<Vec<_>>().join(","))
                }
                Condition::Between(first, last) => format!("{name}=[{}:{}]", quote(first), quote(last)),
            }
        }
    }
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// What several of them mean together: all of it.
///
/// # Errors
/// Says where one is wrong.
pub fn filters<S: AsRef<str>>(texts: &[S]) -> Result<Filter, Misspelt> {
    let mut parts = texts.iter().map(|text| filter(text.as_ref())).collect::<Result<Vec<_>, _>>()?;
    Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::All(parts) })
}

/// What `name=x,blocked=1` sets, in its order.
///
/// # Errors
/// Says where it is wrong, also when a key is set twice.
pub fn changes(text: &str) -> Result<Vec<(String, Value)>, Misspelt> {
    let mut reader = Reader::new(text);
    let mut changes: Vec<(String, Value)> = Vec::new();
    loop {
        reader.blanks();
        let at = reader.rest;
        let key = reader.word("a key")?;
        if changes.iter().any(|(known, _)| *known == key) {
            return Err(Misspelt { rest: at.to_owned(), ..reader.misspelt("a key that is not yet set") });
        }
        if !reader.take("=") {
            return Err(reader.misspelt("“=”"));
        }
        changes.push((key, reader.value()?));
        if !reader.take(",") {
            break;
        }
    }
    reader.end("“,”")?;
    Ok(changes)
}

/// Deeper than people write, and less than the stack holds.
const DEPTH: usize = 100;
/// Longest first, for a shorter one may begin it.
const COMPARISONS: [(&str, Comparison); 8] = [
    ("!=", Comparison::NotEqual),
    ("<>", Comparison::NotEqual),
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("=", Comparison::Equal),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
    ("~", Comparison::Like),
];

struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, rest: text }
    }

    fn misspelt(&self, expected: &'static str) -> Misspelt {
        Misspelt { text: self.text.to_owned(), rest: self.rest.to_owned(), expected }
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes this and the blanks around it, if it is next.
    fn take(&mut self, sign: &str) -> bool {
        self.blanks();
        let Some(rest) = self.rest.strip_prefix(sign) else { return false };
        self.rest = rest;
        self.blanks();
        true
    }

    fn end(&mut self, expected: &'static str) -> Result<(), Misspelt> {
        self.blanks();
        if self.rest.is_empty() { Ok(()) } else { Err(self.misspelt(expected)) }
    }

    fn any(&mut self, depth: usize) -> Result<Filter, Misspelt> {
        let mut parts = vec![self.all(depth)?];
        while self.take(";") {
            parts.push(self.all(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::Any(parts) })
    }

    fn all(&mut self, depth: usize) -> Result<Filter, Misspelt> {
        let mut parts = vec![self.term(depth)?];
        while self.take(",") {
            parts.push(self.term(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::All(parts) })
    }

    fn term(&mut self, depth: usize) -> Result<Filter, Misspelt> {
        if depth == DEPTH {
            return Err(self.misspelt("something less nested"));
        }
        if self.take("!") {
            return Ok(Filter::Not(Box::new(self.term(depth + 1)?)));
        }
        if self.take("(") {
            let inner = self.any(depth + 1)?;
            return if self.take(")") { Ok(inner) } else { Err(self.misspelt("“)”")) };
        }
        let word = self.word("a name, or a field and its value,")?;
        let Some((_, comparison)) = COMPARISONS.into_iter().find(|(sign, _)| self.take(sign)) else {
            return Ok(Filter::Field("name".to_owned(), Condition::Is(Comparison::Equal, word)));
        };
        if matches!(comparison, Comparison::Equal | Comparison::NotEqual) && self.take("[") {
            let condition = self.several()?;
            let field = Filter::Field(word, condition);
            return Ok(if comparison == Comparison::Equal { field } else { Filter::Not(Box::new(field)) });
        }
        let value = self.word_or_nothing()?;
        if value.is_empty() && !matches!(comparison, Comparison::Equal | Comparison::NotEqual) {
            return Err(self.misspelt("a value"));
        }
        Ok(Filter::Field(word, Condition::Is(comparison, value)))
    }

    /// Behind the bracket.
    fn several(&mut self) -> Result<Condition, Misspelt> {
        let first = self.item()?;
        if self.take(":") {
            let last = self.item()?;
            return if self.take("]") { Ok(Condition::Between(first, last)) } else { Err(self.misspelt("“]”")) };
        }
        Ok(Condition::OneOf(self.items(first)?))
    }

    fn items(&mut self, first: String) -> Result<Vec<String>, Misspelt> {
        let mut items = vec![first];
        while self.take(",") {
            items.push(self.item()?);
        }
        if self.take("]") { Ok(items) } else { Err(self.misspelt("“,” or “]”")) }
    }

    fn value(&mut self) -> Result<Value, Misspelt> {
        if self.take("[") {
            if self.take("]") {
                return Ok(Value::Many(Vec::new()));
            }
            let first = self.item()?;
            return Ok(Value::Many(self.items(first)?));
        }
        // What is set may hold signs that mean something in a filter.
        Ok(Value::One(self.text_until(&[','])?))
    }

    /// In a list, where a colon means something, too.
    fn item(&mut self) -> Result<String, Misspelt> {
        let item = self.text_until(&[',', ':', ']', '[', ';', '(', ')'])?;
        if item.is_empty() { Err(self.misspelt("a value")) } else { Ok(item) }
    }

    fn word(&mut self, expected: &'static str) -> Result<String, Misspelt> {
        let at = self.rest;
        let word = self.word_or_nothing()?;
        if word.is_empty() {
            self.rest = at;
            return Err(self.misspelt(expected));
        }
        Ok(word)
    }

    fn word_or_nothing(&mut self) -> Result<String, Misspelt> {
        self.text_until(&[',', ';', '(', ')', '[', ']', '=', '<', '>', '~', '!'])
    }

    /// A quoted text, or everything up to one of these signs without the blanks at its ends.
    fn text_until(&mut self, signs: &[char]) -> Result<String, Misspelt> {
        self.blanks();
        if let Some(quote) = self.rest.chars().next().filter(|sign| matches!(sign, '\'' | '"')) {
            return self.quoted(quote);
        }
        let mut text = String::new();
        // How much of it is not blanks at its end.
        let mut kept = 0;
        let mut signs_left = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, sign)) = signs_left.next() {
            if sign == '\\' {
                let Some((_, meant)) = signs_left.next() else {
                    return Err(self.misspelt("a character behind “\\”"));
                };
                text.push(meant);
                kept = text.len();
            } else if signs.contains(&sign) {
                end = at;
                break;
            } else {
                text.push(sign);
                if !sign.is_whitespace() {
                    kept = text.len();
                }
            }
        }
        self.rest = &self.rest[end..];
        text.truncate(kept);
        Ok(text)
    }

    fn quoted(&mut self, quote: char) -> Result<String, Misspelt> {
        let mut text = String::new();
        let mut signs = self.rest.char_indices().skip(1);
        while let Some((at, sign)) = signs.next() {
            match sign {
                '\\' => text.extend(signs.next().map(|(_, meant)| meant)),
                sign if sign == quote => {
                    self.rest = &self.rest[at + 1..];
                    self.blanks();
                    return Ok(text);
                }
                sign => text.push(sign),
            }
        }
        Err(self.misspelt("the quote that ends it"))
    }
}

#[cfg(test)]
#[path = "words_tests.rs"]
mod tests;
