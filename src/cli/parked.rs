//! `lockstep parked`: the rows that Supabase refused: why, and what is to become of them.

use std::io::IsTerminal;

use clap::Subcommand;
use serde_json::json;

use super::Failure;
use super::output::{Paint, align, thousands};
use crate::app::{self, ROUTE};
use crate::apply::request_fault;
use crate::config::Settings;
use crate::ledger::parked::{self, Action, Choice, Entry, Listing};
use crate::types::{Fault, TableName};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Show what is parked and why, the oldest first
    List {
        /// Only this table: schema.table
        table: Option<String>,
        /// At most so many rows
        #[arg(long, default_value_t = 100, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Read parked rows again from the source and try them now, not when they are due by themselves
    #[command(alias = "reread")]
    Retry {
        /// Only this table: schema.table
        table: Option<String>,
        /// Only the row with this key; of a key of several columns all values, in the key's order
        #[arg(long, num_args = 1.., requires = "table", value_name = "VALUE")]
        key: Vec<String>,
    },
    /// Give parked rows up: what the source holds is not written, until it changes there again
    Discard {
        /// The rows of this table: schema.table
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        table: Option<String>,
        /// Only the row with this key; of a key of several columns all values, in the key's order
        #[arg(long, num_args = 1.., requires = "table", value_name = "VALUE")]
        key: Vec<String>,
        /// Every row that is parked
        #[arg(long)]
        all: bool,
    },
}

pub(super) async fn run(args: Args, settings: &Settings) -> Result<(), Failure> {
    let client = app::target(settings)?;
    let fault = |failure| request_fault(&failure, 0);
    match args.verb {
        Verb::List { table, limit } => {
            let choice = Choice { table: table.as_deref().map(named), key: Vec::new() };
            let listing = parked::list(&client, ROUTE, &choice, limit).await.map_err(fault)?;
            if args.json {
                println!("{}", serde_json::to_string(&listing).unwrap_or_default());
            } else {
                print!("{}", show(&listing, Paint::new(std::io::stdout().is_terminal())));
            }
        }
        Verb::Retry { table, key } => {
            let choice = Choice { table: table.as_deref().map(named), key };
            let rows = parked::act(&client, ROUTE, Action::Retry, &choice).await.map_err(fault)?;
            said(args.json, rows, "will be read again and tried", &choice)?;
        }
        Verb::Discard { table, key, .. } => {
            let choice = Choice { table: table.as_deref().map(named), key };
            let rows = parked::act(&client, ROUTE, Action::Discard, &choice).await.map_err(fault)?;
            said(args.json, rows, "discarded", &choice)?;
        }
    }
    Ok(())
}

/// `table` means the one in `public`.
fn named(text: &str) -> TableName {
    let (schema, name) = text.split_once('.').unwrap_or(("public", text));
    TableName::new(schema, name)
}

fn said(json: bool, rows: u64, what: &str, choice: &Choice) -> Result<(), Failure> {
    if json {
        println!("{}", json!({ "rows": rows }));
        return Ok(());
    }
    if rows == 0 {
        let of = choice.table.as_ref().map_or_else(String::new, |table| format!(" of {table}"));
        return Err(Fault::stop(format!("no such row{of} is parked"), "`lockstep parked list` shows what is").into());
    }
    println!("{} {what}", if rows == 1 { "1 row".to_owned() } else { format!("{} rows", thousands(rows)) });
    Ok(())
}

fn show(listing: &Listing, paint: Paint) -> String {
    let mut out = String::new();
    for table in &listing.tables {
        out += &format!("{} table {}.{}\n  {}\n", paint.red("parked"), table.schema, table.table, table.reason);
    }
    if listing.rows.is_empty() {
        return out + "no row is parked\n";
    }
    let head = ["table", "key", "operation", "code", "since (UTC)", "tries", "reason"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(listing.rows.iter().map(line)).collect();
    for (index, line) in align(&rows).iter().enumerate() {
        out += &if index == 0 { format!("{}\n", paint.faint(line)) } else { format!("{line}\n") };
    }
    let all: u64 = listing.parked.iter().map(|table| table.rows).sum();
    let shown = listing.rows.len() as u64;
    if all > shown {
        out += &format!("{} of {}\n", thousands(shown), thousands(all));
    }
    out
}

fn line(entry: &Entry) -> Vec<String> {
    let since = entry.first_parked_at.replace('T', " ").replace('Z', "");
    let name = TableName::new(&entry.schema, &entry.table).to_string();
    let reason = entry.reason.split_whitespace().collect::<Vec<_>>().join(" ");
    let (operation, code) = (entry.operation.clone(), entry.sqlstate.clone());
    vec![name, entry.key.join(" "), operation, code, since, entry.attempts.to_string(), reason]
}
