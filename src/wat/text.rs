//! The languages of the pages. A text is known by its English words; `spanish.txt` has the other language, a line each.

use std::{collections::HashMap, sync::LazyLock};

/// English, and what it is in Spanish.
static SPANISH: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| {
    include_str!("spanish.txt")
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(english, spanish)| (english.trim(), spanish.trim()))
        .collect()
});

/// A language of the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    English,
    Spanish,
}

impl Language {
    /// The one that an administrator chose, else the first one known that the browser asks for.
    pub fn choose(chosen: Option<&str>, accepted: &str) -> Self {
        let wanted = chosen.filter(|chosen| *chosen != "auto").into_iter();
        let accepted = accepted.split(',').map(|part| part.split(';').next().unwrap_or_default().trim());
        wanted
            .chain(accepted)
            .find_map(|code| match code.get(..2)?.to_ascii_lowercase().as_str() {
                "en" => Some(Self::English),
                "es" => Some(Self::Spanish),
                _ => None,
            })
            .unwrap_or(Self::English)
    }

    /// For the `lang` of a page.
    pub fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Spanish => "es",
        }
    }

    /// The text in this language.
    pub fn text(self, english: &str) -> &str {
        match self {
            Self::English => english,
            Self::Spanish => SPANISH.get(english).copied().unwrap_or(english),
        }
    }

    /// The word for a field of an object.
    pub fn field(self, name: &str) -> String {
        let english = name.replace('_', " ");
        let said = match self {
            Self::English => english.split(' ').map(spelt).collect::<Vec<_>>().join(" "),
            Self::Spanish => self.text(&english).to_owned(),
        };
        let mut letters = said.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
    }
}

/// A word of a field's name as people write it.
fn spelt(word: &str) -> &str {
    match word {
        "id" => "ID",
        "ip" => "IP",
        "mac" => "MAC",
        "vm" => "VM",
        "vms" => "VMs",
        "osf" => "OSF",
        "di" => "image",
        "dis" => "images",
        "ram" => "RAM",
        "cpu" => "CPU",
        "cpus" => "CPUs",
        "acl" => "ACL",
        "acls" => "ACLs",
        "qvd" => "QVD",
        word => word,
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;
    use crate::{admin::objects, wat::spy::Ending};

    #[test]
    fn the_language_is_the_administrators_else_the_browsers_else_english() {
        assert_eq!(Language::choose(Some("es"), "en"), Language::Spanish);
        assert_eq!(Language::choose(Some("auto"), "fr, es-MX;q=0.8, en;q=0.5"), Language::Spanish);
        assert_eq!(Language::choose(None, "en-GB,es"), Language::English);
        assert_eq!(Language::choose(None, "日本,x"), Language::English);
    }

    #[test]
    fn every_text_of_every_page_is_there_in_spanish() {
        let call = Regex::new(r#"\bt\("([^"]+)"\)"#).unwrap();
        let mut texts: Vec<String> = Vec::new();
        for directory in ["src/wat/templates", "src/wat/pages"] {
            for file in std::fs::read_dir(directory).unwrap() {
                let content = std::fs::read_to_string(file.unwrap().path()).unwrap();
                texts.extend(call.captures_iter(&content).map(|found| found[1].to_owned()));
            }
        }
        assert!(texts.len() > 30, "they are looked for in the right place");
        for object in objects::ALL {
            texts.push(object.name.to_owned());
            texts.extend(object.verbs.iter().map(|verb| (*verb).to_owned()));
            let fields = object.columns.iter().chain(object.update).chain(object.create.iter().map(|(name, _)| name));
            texts.extend(fields.map(|name| name.replace('_', " ")));
        }
        texts.extend(Ending::TOLD.iter().map(|(.., text)| (*text).to_owned()));
        let missing: Vec<_> = texts.iter().filter(|text| !SPANISH.contains_key(text.as_str())).collect();
        assert_eq!(missing, Vec::<&String>::new());
    }
}
