//! Lists of any kind of objects, chosen by filters and printed as a table, as CSV or as JSON, row by row as they come.

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    pin::pin,
};

use anyhow::Context;
use clap::Args;
use futures_util::TryStreamExt;

use crate::{
    admin::{access::Listing, csv, objects::Object, words},
    db::Query,
};

use super::{
    grid::Grid,
    settings::{DatabaseArg, WebTool},
};

/// Which objects.
#[derive(Args, Clone)]
pub struct Chosen {
    /// Which: a name, or conditions as in user=alice,state!=stopped. “,” is and, “;” or, “!” not; besides = there are
    /// != < > <= >= and ~ for a pattern with %; [a,b] is any of them, [1:3] a range, field= an empty field
    #[arg(value_name = "FILTER")]
    pub filter: Vec<String>,
}

/// How they are printed.
#[derive(Args, Clone, Copy)]
#[group(multiple = false)]
pub struct Format {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    /// Print comma-separated values
    #[arg(long)]
    csv: bool,
}

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    chosen: Chosen,
    /// Fields to show, separated by commas; custom properties are fields, too
    #[arg(long, short, value_delimiter = ',', value_name = "FIELD")]
    columns: Vec<String>,
    /// Show all fields
    #[arg(long, conflicts_with = "columns")]
    all: bool,
    /// Fields to order by, separated by commas; those with a “-” in front from the last to the first
    #[arg(long, short, value_delimiter = ',', value_name = "FIELD", allow_hyphen_values = true)]
    order: Vec<String>,
    /// At most so many
    #[arg(long, value_parser = clap::value_parser!(i64).range(0..))]
    limit: Option<i64>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    database: DatabaseArg,
}

pub async fn run(object: &Object, arguments: &Arguments, web: &WebTool) -> anyhow::Result<()> {
    let filter = words::filters(&arguments.chosen.filter)?;
    let administration = web.administration(&arguments.database).await?;
    let list = administration.list(object).await?;
    let columns = match (arguments.all, arguments.columns.as_slice()) {
        (true, _) => list.columns().await?,
        (false, []) => object.columns.iter().map(|&column| column.to_owned()).collect(),
        (false, columns) => columns.iter().map(|word| object.field(word).to_owned()).collect(),
    };
    let order = arguments.order.iter().map(|word| match word.strip_prefix('-') {
        Some(word) => (object.field(word).to_owned(), true),
        None => (object.field(word).to_owned(), false),
    });
    let query = Query { filter, columns, order: order.collect(), limit: arguments.limit, offset: 0 };
    match print(&list, &query, arguments.format).await {
        // Whoever reads has seen enough.
        Err(error)
            if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) =>
        {
            Ok(())
        }
        printed => printed,
    }
}

async fn print(list: &Listing<'_>, query: &Query, format: Format) -> anyhow::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    if format.json {
        let mut rows = pin!(list.objects(query).await?);
        let mut separator = "[\n  ";
        while let Some(row) = rows.try_next().await? {
            write!(out, "{separator}{}", row.json())?;
            separator = ",\n  ";
        }
        writeln!(out, "{}", if separator.starts_with('[') { "[]" } else { "\n]" })?;
        return Ok(out.flush()?);
    }
    let mut rows = pin!(list.rows(query).await?);
    if format.csv {
        csv::line(&mut out, query.columns.iter().map(String::as_str))?;
        while let Some(row) = rows.try_next().await? {
            csv::line(&mut out, (0..query.columns.len()).map(|at| row.cell(at)))?;
        }
        return Ok(out.flush()?);
    }
    let mut grid = Grid::new(&query.columns);
    while let Some(row) = rows.try_next().await? {
        for at in 0..query.columns.len() {
            grid.cell(row.cell(at));
        }
    }
    grid.write(&mut out, terminal())?;
    out.flush().context("the list cannot be printed")
}

/// How many columns the terminal has, if the output goes to one.
fn terminal() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}
