//! `lockstep parked`: the rows that Supabase refused: why, and what is to become of them.

use std::io::IsTerminal;

use clap::Subcommand;

use super::Failure;
use super::output::{Paint, align, thousands};
use crate::app::{self, ROUTE};
use crate::apply::request_fault;
use crate::config::Settings;
use crate::ledger::parked::{self, Entry, Listing};
use crate::types::{Fault, ParkedAction, ParkedChoice, ParkedWish, TableName};

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
    let (action, choice) = match args.verb {
        Verb::List { table, limit } => (ParkedAction::List { limit }, ParkedChoice::of(table.as_deref(), Vec::new())),
        Verb::Retry { table, key } => (ParkedAction::Retry, ParkedChoice::of(table.as_deref(), key)),
        Verb::Discard { table, key, .. } => (ParkedAction::Discard, ParkedChoice::of(table.as_deref(), key)),
    };
    let wish = ParkedWish { action, choice };
    // Asked of Supabase itself, so that it works while no service runs.
    let client = app::target(settings)?;
    let answer = parked::wish(&client, ROUTE, &wish).await.map_err(|failure| request_fault(&failure, 0))?;
    if args.json {
        println!("{answer}");
        return Ok(());
    }
    let rows = answer["rows"].as_u64().unwrap_or(0);
    match action {
        ParkedAction::List { .. } => {
            let listing: Listing = serde_json::from_value(answer).map_err(|error| {
                Fault::retry(format!("lockstep_parked in Supabase answers what is not ours: {error}"))
            })?;
            print!("{}", show(&listing, Paint::new(std::io::stdout().is_terminal())));
            Ok(())
        }
        ParkedAction::Retry => said(rows, "will be read again and tried", &wish.choice),
        ParkedAction::Discard => said(rows, "discarded", &wish.choice),
    }
}

fn said(rows: u64, what: &str, choice: &ParkedChoice) -> Result<(), Failure> {
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
