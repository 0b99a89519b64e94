//! What is done with objects of any kind: made, changed, deleted, started and so on. Each is done or refused for itself;
//! the outcome is told for every one, and the exit code says whether all went well.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::ensure;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::{
    admin::{
        access::Administration,
        objects::Object,
        words::{self, Value as Words},
    },
    db::Outcome,
};

use super::{
    list::Chosen,
    settings::{DatabaseArg, WebTool},
};

/// More refusals than these are counted and not told one by one.
const TOLD: usize = 20;

/// Which objects, and how careful to be with them.
#[derive(Args)]
pub struct Those {
    #[command(flatten)]
    pub chosen: Chosen,
    #[command(flatten)]
    pub how: How,
}

#[derive(Args)]
pub struct How {
    /// Say which it would be, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask back
    #[arg(long, short)]
    force: bool,
    /// Print a JSON array with the outcome for each
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub database: DatabaseArg,
}

#[derive(Args)]
pub struct New {
    /// Its fields and custom properties, as in name=desk,user=alice,osf=desktop
    #[arg(value_name = "FIELD=VALUE,…", required = true)]
    fields: Vec<String>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    database: DatabaseArg,
}

#[derive(Args)]
pub struct Set {
    /// Which, as in a list; the last word says what is set, as in name=desk2,description='a desk'
    #[arg(value_name = "FILTER… FIELD=VALUE,…", required = true)]
    words: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// Makes an object.
pub async fn create(object: &Object, arguments: &New, web: &WebTool) -> anyhow::Result<ExitCode> {
    let fields = fields(object, &arguments.fields, false)?;
    let missing: Vec<_> = object
        .create
        .iter()
        .filter(|(name, required)| {
            *required && ![*name, name.trim_end_matches("_id")].iter().any(|name| fields.contains_key(*name))
        })
        .map(|(name, _)| *name)
        .collect();
    ensure!(missing.is_empty(), "a new {} needs {}", object.name, missing.join(", "));
    let administration = web.administration(&arguments.database).await?;
    let id = administration.create(object.name, &Value::Object(fields)).await?;
    match arguments.json {
        true => println!("{}", json!({ "id": id })),
        false => println!("{} {id} is made.", object.name),
    }
    Ok(ExitCode::SUCCESS)
}

/// Changes objects.
pub async fn set(object: &Object, arguments: &Set, web: &WebTool) -> anyhow::Result<ExitCode> {
    let (changes, filter) =
        arguments.words.split_last().map_or((&[][..], &[][..]), |(last, filter)| (std::slice::from_ref(last), filter));
    let changes = fields(object, changes, true)?;
    let chosen = Chosen { filter: filter.to_vec() };
    act(object, "set", &chosen, &arguments.how, Value::Object(changes), web).await
}

/// Does with those what `verb` says.
pub async fn act(
    object: &Object,
    verb: &str,
    chosen: &Chosen,
    how: &How,
    arguments: Value,
    web: &WebTool,
) -> anyhow::Result<ExitCode> {
    let administration = web.administration(&how.database).await?;
    let Some(ids) = ids(&administration, object, verb, chosen, how).await? else { return Ok(ExitCode::SUCCESS) };
    let outcomes = administration.act(object.name, verb, &ids, &arguments).await?;
    Ok(tell(object, &outcomes, how.json))
}

/// Those that are meant, when it is certain that they are; `None` when it is enough to say which they are.
pub async fn ids(
    administration: &Administration,
    object: &Object,
    verb: &str,
    chosen: &Chosen,
    how: &How,
) -> anyhow::Result<Option<Vec<i32>>> {
    let filter = words::filters(&chosen.filter)?;
    let ids = administration.list(object).await?.ids(&filter).await?;
    ensure!(!ids.is_empty(), "there is no such {}; see `qvd admin {} list`", object.name, object.name);
    if how.dry_run {
        match how.json {
            true => println!("{}", json!(ids)),
            false => println!("{verb}: {} × {} ({})", ids.len(), object.name, some(&ids)),
        }
        return Ok(None);
    }
    let risky = filter.is_everything() || (verb == "del" && ids.len() > 1);
    if risky && !how.force {
        ensure!(std::io::stdin().is_terminal(), "say --force if {verb} is meant for {} × {}", ids.len(), object.name);
        eprint!("{verb}: {} × {} ({}). Go on? [y/N] ", ids.len(), object.name, some(&ids));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        ensure!(matches!(answer.trim(), "y" | "Y" | "yes"), "nothing is done");
    }
    Ok(Some(ids))
}

fn some(ids: &[i32]) -> String {
    let shown: Vec<_> = ids.iter().take(10).map(i32::to_string).collect();
    format!("{}{}", shown.join(", "), if ids.len() > shown.len() { ", …" } else { "" })
}

/// What the words set: fields of their own, custom properties beside them.
fn fields(object: &Object, words: &[String], change: bool) -> anyhow::Result<Map<String, Value>> {
    let (mut fields, mut properties) = (Map::new(), Map::new());
    for (key, value) in words::changes(&words.join(","))? {
        let value = match value {
            Words::One(value) => Value::String(value),
            Words::Many(values) => values.into(),
        };
        let field = object.field(&key).to_owned();
        match object.has(&field) {
            true => fields.insert(field, value),
            false => properties.insert(key, value),
        };
    }
    if !properties.is_empty() {
        let properties = Value::Object(properties);
        fields.insert("properties".to_owned(), if change { json!({ "set": properties }) } else { properties });
    }
    Ok(fields)
}

/// Says what became of each, and whether all went well.
pub fn tell(object: &Object, outcomes: &[Outcome], json: bool) -> ExitCode {
    let refused: Vec<_> =
        outcomes.iter().filter_map(|outcome| outcome.refused.as_ref().map(|why| (outcome.id, why))).collect();
    if json {
        let each: Vec<_> = outcomes
            .iter()
            .map(|outcome| match &outcome.refused {
                None => json!({ "id": outcome.id, "done": true }),
                Some(why) => {
                    json!({ "id": outcome.id, "done": false, "code": why.code, "message": why.message, "hint": why.hint })
                }
            })
            .collect();
        println!("{}", Value::Array(each));
    } else {
        for (id, why) in refused.iter().take(TOLD) {
            let hint = why.hint.as_ref().map_or(String::new(), |hint| format!("; {hint}"));
            eprintln!("{} {id}: {}{hint}", object.name, why.message);
        }
        println!("{} of {} done.", outcomes.len() - refused.len(), outcomes.len());
    }
    if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
