//! Rows that a first copy or a repair brought fire nothing by themselves. Whoever wants them to asks for it: one run for
//! each row that is there and that the workflow acts on, as if it had just been inserted. All of them are recorded in one
//! transaction, and asked again in the same round they are the same runs: nothing is lost half way, and none fires twice.

use super::catalog;
use super::change::Sides;
use super::desk::{key_of, refused, unavailable};
use super::incoming::{Seen, hash, record};
use super::rule::{Event, Side, Workflow};
use crate::ledger::workflow_runs::{self, NewRun};
use crate::pg::client::fault;
use crate::pg::{Client, quote};
use crate::types::{FireAsked, Refusal};

/// Runs that one wish may lead to: what a receiver takes in minutes, and a few statements record.
const MOST: usize = 10_000;
/// Their rows together, which are held in memory for a moment.
const BYTES: usize = 64 << 20;

/// Records the runs; says how many rows fit, and how many runs are new.
pub async fn fire(client: &mut Client, workflow: &Workflow, asked: &FireAsked) -> Result<(usize, u64), Refusal> {
    let runs = runs(client, workflow, asked).await?;
    let recorded = workflow_runs::record(client, &runs).await.map_err(unavailable)?;
    crate::metrics::get().workflow_runs_recorded.inc_by(recorded);
    Ok((runs.len(), recorded))
}

async fn runs(client: &mut Client, workflow: &Workflow, asked: &FireAsked) -> Result<Vec<NewRun>, Refusal> {
    let conflict = |why: &str| Err(Refusal::Conflict(why.to_owned()));
    if workflow.side != Side::Source || workflow.event != Event::Insert {
        return conflict(
            "only a workflow for INSERT at the source can be fired: a row that is there was inserted once",
        );
    }
    if !workflow.enabled {
        return conflict("it is switched off: its runs would wait until it is on");
    }
    let Some(table) = catalog::table(client, &workflow.table).await.map_err(unavailable)? else {
        return Err(Refusal::NotFound(format!("the source has no table {}", workflow.table)));
    };
    if table.key.is_empty() {
        return conflict("its table has no key: nobody could tell one row's run from another's");
    }
    let gone = |error: tokio_postgres::Error| unavailable(fault(&error));
    let reading = client.transaction().await.map_err(gone)?;
    let keys = serde_json::to_string(&asked.keys).unwrap_or_else(|_| "[]".into());
    reading.execute(&cursor(workflow, &table.key), &[&keys]).await.map_err(gone)?;
    let (mut runs, mut bytes) = (Vec::new(), 0);
    loop {
        let rows = reading.query("fetch 500 from asked", &[]).await.map_err(gone)?;
        for row in &rows {
            let row: String = row.get(0);
            let size = row.len();
            if let Some(run) = run(workflow, &table.key, &asked.round, row)? {
                bytes += size;
                runs.push(run);
            }
        }
        if runs.len() > MOST || bytes > BYTES {
            let why = format!("more than {MOST} rows or 64 MiB: name keys, or narrow the condition; nothing was fired");
            return Err(Refusal::Conflict(why));
        }
        if rows.is_empty() {
            return Ok(runs);
        }
    }
}

fn cursor(workflow: &Workflow, key: &[String]) -> String {
    let columns: Vec<String> = key.iter().map(|column| format!("t.{}", quote::ident(column))).collect();
    let texts: Vec<String> = columns.iter().map(|column| format!("{column}::text")).collect();
    format!(
        "declare asked cursor for select to_json(t)::text from {} t where $1::text = '[]' \
         or jsonb_build_array({}) in (select jsonb_array_elements($1::text::jsonb)) order by {}",
        quote::table(&workflow.table),
        texts.join(", "),
        columns.join(", ")
    )
}

/// The run of a row, if the workflow acts on it.
fn run(workflow: &Workflow, key: &[String], round: &str, row: String) -> Result<Option<NewRun>, Refusal> {
    let Some(sides) = Sides::parse(Some(&row), None) else {
        return Err(Refusal::Unavailable("a row of the table cannot be read as JSON".into()));
    };
    if !workflow.matches(&sides).map_err(refused)? {
        return Ok(None);
    }
    let key = key_of(&row, key);
    let table = workflow.table.to_string();
    let named = serde_json::to_string(&key).unwrap_or_else(|_| "[]".into());
    let id = hash(&["asked", &workflow.id, &table, &named, round]);
    let seen = Seen { event: Event::Insert, new: Some(row.into()), old: None, left_out: Vec::new(), key, sides };
    Ok(Some(record(workflow, Side::Source, &table, &seen, id)))
}
