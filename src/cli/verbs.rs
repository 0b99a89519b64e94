//! The verbs that objects of several kinds have in common, and where they stand: before what is meant, or behind it as
//! habits from classic QVD's `qa4` have it.

use std::{ffi::OsString, process::ExitCode};

use clap::Subcommand;
use serde_json::json;

use crate::admin::objects::Object;

use super::{
    act::{self, New, Set, Those},
    list,
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

pub async fn common(object: &Object, command: Common) -> anyhow::Result<ExitCode> {
    match command {
        Common::List(arguments) => list::run(object, &arguments).await.map(|()| ExitCode::SUCCESS),
        Common::New(new) => act::create(object, &new).await,
        Common::Set(set) => act::set(object, &set).await,
        Common::Del(those) => simply(object, "del", &those).await,
    }
}

pub async fn only(object: &Object, Only::List(arguments): Only) -> anyhow::Result<ExitCode> {
    list::run(object, &arguments).await.map(|()| ExitCode::SUCCESS)
}

pub async fn lock(object: &Object, command: Lock) -> anyhow::Result<ExitCode> {
    match command {
        Lock::Block(those) => simply(object, "block", &those).await,
        Lock::Unblock(those) => simply(object, "unblock", &those).await,
    }
}

/// Does what needs no more words.
pub async fn simply(object: &Object, verb: &str, those: &Those) -> anyhow::Result<ExitCode> {
    act::act(object, verb, &those.chosen, &those.how, json!({})).await
}

/// Puts the verb of `qvd admin <object> <filter> <verb> …` in front of the filter, unless one is there already.
pub fn verb_first(mut words: Vec<OsString>, command: &clap::Command) -> Vec<OsString> {
    let object = words.get(2).and_then(|word| word.to_str());
    let Some(object) = object.filter(|_| words[1] == "admin") else { return words };
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
        for left_alone in
            ["qvd admin vm", "qvd admin vm x", "qvd admin vm --json list x", "qvd db x list", "qvd", "qvd admin"]
        {
            assert_eq!(reordered(left_alone), left_alone);
        }
    }
}
