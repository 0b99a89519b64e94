//! `qvd config`: the keys that exist and their values.

use clap::Subcommand;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};

use crate::model::config::{Config, KEYS, Origin};

use super::settings::ConfigFile;

#[derive(Subcommand)]
pub enum Command {
    /// List every key with its unit, default and meaning, and its value where the file sets one
    List {
        /// Only keys that contain this text
        filter: Option<String>,
        #[command(flatten)]
        file: ConfigFile,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
}

pub fn run(command: Command) -> anyhow::Result<()> {
    let Command::List { filter, file, json } = command;
    let config = if file.config.exists() { file.read()? } else { Config::default() };
    let shown: Vec<_> =
        KEYS.iter().filter(|key| filter.as_deref().is_none_or(|text| key.name.contains(text))).collect();
    if json {
        let keys: Vec<_> = shown
            .iter()
            .map(|key| {
                serde_json::json!({
                    "key": key.name, "unit": key.unit.to_string(), "default": key.default,
                    "value": config.text(key.name), "set": config.origin(key.name).is_some(),
                    "meaning": key.meaning.trim(),
                })
            })
            .collect();
        println!("{}", serde_json::Value::Array(keys));
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["KEY", "VALUE", "UNIT", "MEANING"]);
    for key in shown {
        let value = match config.origin(key.name) {
            Some(Origin::File { line, .. }) => {
                format!("{} (line {line})", config.text(key.name).unwrap_or_default())
            }
            _ => key.default.to_owned(),
        };
        table.add_row([key.name, &value, &key.unit.to_string(), key.meaning.trim()]);
    }
    println!("{table}");
    Ok(())
}
