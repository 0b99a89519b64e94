//! The verbs that objects of several kinds have in common, and where they stand: before what is meant, or behind it as
//! habits from classic QVD's `qa4` have it.

use std::{ffi::OsString, process::ExitCode};

use clap::Subcommand;
use serde_json::json;

use crate::admin::objects::Object;

use super::{
    act::{self, New, Set, Those},
    list,
    settings::WebTool,
};

#[derive(Subcommand)]
pub enum Common {
    /// Print a list
    #[command(visible_alias = "get")]
    List(list::Arguments),
    /// Make one
    New(New),
    /// Change fields and custom properties
    Set(Set),
    /// Delete
    #[command(visible_alias = "delete")]
    Del(Those),
}

#[derive(Subcommand)]
pub enum Only {
    /// Print a list
    #[command(visible_alias = "get")]
    List(list::Arguments),
}

#[derive(Subcommand)]
pub enum Lock {
    /// Take out of use; what runs goes on
    Block(Those),
    /// Take into use again
    Unblock(Those),
}

pub async fn common(object: &Object, command: Common, web: &WebTool) -> anyhow::Result<ExitCode> {
    match command {
        Common::List(arguments) => list::run(object, &arguments, web).await.map(|()| ExitCode::SUCCESS),
        Common::New(new) => act::create(object, &new, web).await,
        Common::Set(set) => act::set(object, &set, web).await,
        Common::Del(those) => simply(object, "del", &those, web).await,
    }
}

pub async fn only(object: &Object, Only::List(arguments): Only, web: &WebTool) -> anyhow::Result<ExitCode> {
    list::run(object, &arguments, web).await.map(|()| ExitCode::SUCCESS)
}

pub async fn lock(object: &Object, command: Lock, web: &WebTool) -> anyhow::Result<ExitCode> {
    match command {
        Lock::Block(those) => simply(object, "block", &those, web).await,
        Lock::Unblock(those) => simply(object, "unblock", &those, web).await,
    }
}

/// Does what needs no more words.
pub async fn simply(object: &Object, verb: &str, those: &Those, web: &WebTool) -> anyhow::Result<ExitCode> {
    act::act(object, verb, &those.chosen, &those.how, json!({}), web).await
}

/// Puts the verb of `qvd admin <object> <filter> <verb> …` in front of the filter, unless one is there already.
pub fn verb_first(words: Vec<OsString>, command: &clap::Command) -> Vec<OsString> {
    if words.get(1).is_none_or(|word| word != "admin") {
        return words;
    }
    // What stands in front of the object says where it is asked.
    let mut front = 0;
    while let Some(word) = words.get(2 + front).and_then(|word| word.to_str()) {
        front += match word {
            "--url" | "--ca" => 2,
            word if word.starts_with("--url=") || word.starts_with("--ca=") => 1,
            _ => break,
        };
    }
    let at = words.len().min(2 + front);
    let mut behind: Vec<OsString> = words[..2].iter().chain(&words[at..]).cloned().collect();
    behind = verb_first_of(behind, command);
    behind.splice(2..2, words[2..at].iter().cloned());
    behind
}

/// The same without options in front of the object.
fn verb_first_of(mut words: Vec<OsString>, command: &clap::Command) -> Vec<OsString> {
    let Some(object) = words.get(2).and_then(|word| word.to_str()) else { return words };
    let Some(object) = command.find_subcommand("admin").and_then(|admin| admin.find_subcommand(object)) else {
        return words;
    };
    let is_verb = |word: &OsString| word.to_str().is_some_and(|word| object.find_subcommand(word).is_some());
    let starts = |word: &OsString, sign| word.to_str().is_some_and(|word| word.starts_with(sign));
    // An option in front may have a value, which only clap can tell from a filter.
    let filters = words.iter().skip(3).take_while(|word| !starts(word, '-') && !is_verb(word)).count();
    if filters == 0 || !words.get(3 + filters).is_some_and(is_verb) {
        return words;
    }
    words[3..=3 + filters].rotate_right(1);
    if words[3] != "get" {
        return words;
    }
    // What follows are fields to show, and then `order`, perhaps the direction, and fields to order by.
    let behind = words.split_off(4 + filters);
    let shown = behind.iter().take_while(|word| *word != "order" && !starts(word, '-')).count();
    let (shown, rest) = behind.split_at(shown);
    words.extend(shown.iter().flat_map(|fields| ["--columns".into(), fields.clone()]));
    let rest = match rest {
        [order, direction, fields, rest @ ..] if order == "order" && (direction == "asc" || direction == "desc") => {
            let sign = if direction == "desc" { "-" } else { "" };
            let fields = fields.to_string_lossy().replace(',', &format!(",{sign}"));
            words.push(format!("--order={sign}{fields}").into());
            rest
        }
        [order, fields, rest @ ..] if order == "order" => {
            words.extend(["--order".into(), fields.clone()]);
            rest
        }
        rest => rest,
    };
    words.extend_from_slice(rest);
    words
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    fn reordered(line: &str) -> String {
        let vm =
            Command::new("vm").subcommand(Command::new("list").visible_alias("get")).subcommand(Command::new("start"));
        let command = Command::new("qvd").subcommand(Command::new("admin").subcommand(vm));
        let words = verb_first(line.split(' ').map(OsString::from).collect(), &command);
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_verb_behind_its_filter_is_put_in_front() {
        assert_eq!(reordered("qvd admin vm name=x id>3 start --force"), "qvd admin vm start name=x id>3 --force");
        assert_eq!(
            reordered("qvd admin vm name=x get id,name order desc id,name --csv"),
            "qvd admin vm get name=x --columns id,name --order=-id,-name --csv"
        );
        assert_eq!(reordered("qvd admin vm a get order name"), "qvd admin vm get a --order name");
        assert_eq!(reordered("qvd admin vm start start"), "qvd admin vm start start", "a VM may be called so");
        assert_eq!(
            reordered("qvd admin --url https://wat.example --ca=ca.pem vm a start"),
            "qvd admin --url https://wat.example --ca=ca.pem vm start a"
        );
        for left_alone in [
            "qvd admin --url",
            "qvd admin --url x",
            "qvd admin vm",
            "qvd admin vm x",
            "qvd admin vm --json list x",
            "qvd db x list",
            "qvd",
            "qvd admin",
        ] {
            assert_eq!(reordered(left_alone), left_alone);
        }
    }
}
