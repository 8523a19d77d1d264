//! `lockstep tables`: where each table stands; pause, resume or resync one. `lockstep runs`: what runs compared and
//! repaired.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;

use super::Failure;
use super::output::{Paint, align, span, thousands};
use super::service::{self, Asked};
use crate::config::Settings;
use crate::status::{TableState, View};
use crate::types::{Fault, RunRow};

#[derive(clap::Args)]
pub(super) struct TablesArgs {
    #[command(subcommand)]
    action: Option<Action>,
    /// Print the tables as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Set a table aside: its changes are skipped until it is resumed
    Pause { table: String },
    /// Let a paused table take part again: it is compared and repaired first
    Resume { table: String },
    /// Take nothing of a table for granted: compare and repair it as after a first start
    Resync { table: String },
}

#[derive(clap::Args)]
pub(super) struct RunsArgs {
    /// How many lines, the newest first
    #[arg(long, value_name = "N", default_value_t = 30)]
    limit: u32,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
}

/// A route takes this long at most to look at both sides again, draining what is in flight.
const SOON: Duration = Duration::from_secs(60);

pub(super) async fn tables(args: TablesArgs, settings: &Settings) -> Result<(), Failure> {
    let (verb, table) = match args.action {
        None => return list(args.json, settings).await,
        Some(Action::Pause { table }) => ("pause", table),
        Some(Action::Resume { table }) => ("resume", table),
        Some(Action::Resync { table }) => ("resync", table),
    };
    let path = format!("/api/tables/{}/{verb}", escaped(&table));
    let answer = service::post(settings, &path, json!({})).await?.answered()?;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
    let name = answer["table"].as_str().unwrap_or(&table).to_owned();
    if verb == "pause" {
        until_paused(settings, &name).await?;
        println!("{name} is paused: its changes are skipped until `lockstep tables resume {table}`");
    } else {
        println!("{name} is compared and repaired now, and streams from then on");
    }
    Ok(())
}

async fn until_paused(settings: &Settings, name: &str) -> Result<(), Fault> {
    let since = Instant::now();
    while since.elapsed() < SOON {
        let view = view(settings).await?;
        if view.status.tables.iter().any(|table| table.name == name && table.state == TableState::Paused) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(Fault::retry(format!("{name} is noted as paused, but the route has not taken it up; see `lockstep status`")))
}

async fn view(settings: &Settings) -> Result<View, Fault> {
    let text = service::get(settings, "/api/status").await?.answered()?;
    serde_json::from_str(&text).map_err(|error| Fault::retry(format!("the service's answer is not a status: {error}")))
}

async fn list(as_json: bool, settings: &Settings) -> Result<(), Failure> {
    let view = view(settings).await?;
    if as_json {
        println!("{}", json!(view.status.tables));
        return Ok(());
    }
    let paint = Paint::new(std::io::stdout().is_terminal());
    let mut rows = vec![["table", "state", "rows", "known to differ"].map(str::to_owned).to_vec()];
    rows.extend(view.status.tables.iter().map(|table| {
        let differ = view.jobs.different.get(&table.name).map_or(String::new(), |&rows| thousands(rows));
        vec![table.name.clone(), super::status::words(&table.state), thousands(table.rows), differ]
    }));
    for (at, line) in align(&rows).into_iter().enumerate() {
        println!("{}", if at == 0 { paint.faint(&line) } else { line });
    }
    Ok(())
}

#[derive(Deserialize)]
struct Runs {
    runs: Vec<RunRow>,
}

pub(super) async fn runs(args: RunsArgs, settings: &Settings) -> Result<(), Failure> {
    let runs = match service::get(settings, &format!("/api/runs?limit={}", args.limit)).await? {
        Asked::Answered(text) => {
            let read: Result<Runs, _> = serde_json::from_str(&text);
            read.map_err(|error| Fault::retry(format!("the service's answer is not a history: {error}")))?.runs
        }
        Asked::Nobody(_) => {
            eprintln!("no Lockstep is running: reading the source");
            settings.source.url()?;
            crate::app::runs(settings, args.limit).await?
        }
    };
    if args.json {
        println!("{}", json!({"runs": runs}));
    } else {
        print!("{}", text(&runs, Paint::new(std::io::stdout().is_terminal())));
    }
    Ok(())
}

fn text(runs: &[RunRow], paint: Paint) -> String {
    let heads = ["started", "table", "result", "rows", "differed", "repaired", "took", "why"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(runs.iter().map(|run| {
        let differed = run.missing + run.different + run.surplus;
        let why = run.message.as_ref().map_or(run.why.clone(), |message| format!("{}: {message}", run.why));
        vec![
            run.started_at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
            run.table_name.clone(),
            run.result.clone(),
            thousands(run.rows_compared),
            thousands(differed),
            thousands(run.inserted + run.updated + run.deleted),
            span(run.seconds),
            why,
        ]
    }));
    let mut out = String::new();
    for (at, line) in align(&rows).into_iter().enumerate() {
        let result = at.checked_sub(1).and_then(|at| runs.get(at)).map(|run| run.result.as_str());
        let line = match result {
            None => paint.faint(&line),
            Some("different" | "failed") => paint.red(&line),
            Some("unknown") => paint.yellow(&line),
            Some(_) => line,
        };
        out += &format!("{line}\n");
    }
    out
}

/// A table's name as a part of a path.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-~".contains(&byte);
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_part_of_the_path() {
        assert_eq!(escaped("public.a/b ü"), "public.a%2Fb%20%C3%BC");
    }
}
