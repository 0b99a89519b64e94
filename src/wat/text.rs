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
        let said = self.said(english);
        said.split('|').next().unwrap_or(said)
    }

    fn said(self, english: &str) -> &str {
        match self {
            Self::English => english,
            Self::Spanish => SPANISH.get(english).copied().unwrap_or(english),
        }
    }

    /// The word for a field of an object.
    pub fn field(self, name: &str) -> String {
        let english = match name {
            // As a verb it is something else.
            "block" => "rows per page".to_owned(),
            name => name.replace('_', " "),
        };
        self.capital(&english)
    }

    /// What a button says that does something with objects of a kind: to block is another thing for each.
    pub fn verb(self, kind: &str, verb: &str) -> String {
        let english = match (kind, verb) {
            ("vm", "block") => "block access",
            ("vm", "unblock") => "allow access",
            ("user" | "tenant", "block") => "block logins",
            ("user" | "tenant", "unblock") => "allow logins",
            ("host", "block") => "block new VMs",
            ("host", "unblock") => "allow new VMs",
            ("di", "block") => "block starts",
            ("di", "unblock") => "allow starts",
            (_, "del") => "delete",
            (_, verb) => verb,
        };
        self.capital(english)
    }

    /// Asks whether it is to be done with so many of a kind, or with the one that is shown.
    pub fn question(self, verb: &str, of: Option<(&str, &str)>) -> String {
        let verb = self.capital(if verb == "del" { "delete" } else { verb });
        let what = of.map(|(kind, number)| format!(" {number} {}", self.noun(kind, number == "1"))).unwrap_or_default();
        match self {
            Self::English => format!("{verb}{what}?"),
            Self::Spanish => format!("¿{verb}{what}?"),
        }
    }

    /// What an object of a kind is called, or several.
    pub fn noun(self, kind: &str, one: bool) -> String {
        match self {
            Self::English => {
                let (singular, plural) = match kind {
                    "host" => ("node", "nodes"),
                    "property" => ("property", "properties"),
                    kind => return if one { spelt(kind).to_owned() } else { format!("{}s", spelt(kind)) },
                };
                if one { singular } else { plural }.to_owned()
            }
            Self::Spanish => match one {
                true => self.text(kind).to_owned(),
                false => self.text(&format!("{kind}s")).to_owned(),
            },
        }
    }

    /// A word that is said of one object of a kind or of several. Spanish ones that have four forms have them in one line:
    /// `elegido|elegida|elegidos|elegidas`.
    pub fn agreed<'a>(self, english: &'a str, kind: &str, one: bool) -> &'a str {
        let said = self.said(english);
        let form = usize::from(FEMININE.contains(&kind)) + if one { 0 } else { 2 };
        said.split('|').nth(form).unwrap_or(said)
    }

    fn capital(self, english: &str) -> String {
        let said = match self {
            Self::English => english.split(' ').map(spelt).collect::<Vec<_>>().join(" "),
            Self::Spanish => self.text(english).to_owned(),
        };
        let mut letters = said.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
    }
}

/// Kinds whose Spanish names are feminine.
const FEMININE: [&str; 6] = ["vm", "osf", "di", "tenant", "property", "session"];

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
    fn numbers_nouns_and_participles_agree() {
        use Language::{English, Spanish};
        for (language, kind, one, noun, chosen) in [
            (English, "vm", true, "VM", "chosen"),
            (English, "property", false, "properties", "chosen"),
            (Spanish, "vm", true, "máquina virtual", "elegida"),
            (Spanish, "vm", false, "máquinas virtuales", "elegidas"),
            (Spanish, "host", true, "nodo", "elegido"),
            (Spanish, "user", false, "usuarios", "elegidos"),
        ] {
            assert_eq!((&*language.noun(kind, one), language.agreed("chosen", kind, one)), (noun, chosen));
        }
        assert_eq!(English.question("del", Some(("vm", "37"))), "Delete 37 VMs?");
        assert_eq!(Spanish.question("stop", Some(("vm", "1"))), "¿Parar 1 máquina virtual?");
        assert_eq!(Spanish.question("block", None), "¿Bloquear?");
    }

    #[test]
    fn what_blocks_is_told_from_the_length_of_a_page() {
        assert_eq!(Language::English.field("block"), "Rows per page");
        assert_eq!(Language::English.verb("vm", "block"), "Block access");
        assert_eq!(Language::Spanish.field("blocked"), "Bloqueado");
    }

    #[test]
    fn every_text_of_every_page_is_there_in_spanish() {
        let call = Regex::new(r#"\b(?:t|agreed)\("([^"]+)"[,)]"#).unwrap();
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
            for verb in object.verbs {
                texts.push((*verb).to_owned());
                texts.push(Language::English.verb(object.name, verb).to_lowercase().replace("vms", "VMs"));
            }
            let fields = object.columns.iter().chain(object.update).chain(object.create.iter().map(|(name, _)| name));
            texts.extend(fields.map(|name| name.replace('_', " ")));
        }
        texts.extend(Ending::TOLD.iter().map(|(.., text)| (*text).to_owned()));
        let missing: Vec<_> = texts.iter().filter(|text| !SPANISH.contains_key(text.as_str())).collect();
        assert_eq!(missing, Vec::<&String>::new());
    }
}
