//! Compares both sides and repairs what differs, while changes stream on. The first copy, a resync, the nightly check
//! and the way back after a lost slot are all this.
//!
//! A comparison asks nothing of the stream but that it goes on: digests of the same parts of a table on both sides, the
//! target's read once it has passed the point of the source's (`compare`). What differs is looked at until it is proved
//! (`prove`). Whatever is written goes through the stream: it is read beside it between two watermarks and merged into
//! it at the second one (`pipeline::window`), so that concurrent changes win. No long transaction, one slot.

mod check;
mod copy;
mod inlet;
mod order;
mod part;
mod prove;
mod read;
mod record;
mod repair;
mod reread;
mod source;
mod target;
mod wait;
mod walk;
mod whole;

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::pg::{self, Client, Url};
use crate::rest;
use crate::types::{Fault, Job, Progress, Table, TableReport};

use check::{Teller, Tools, check};
pub use copy::{Copy, copy};
pub use inlet::{Inlet, Marks};
pub use record::Record;
pub use reread::reread;

#[derive(Clone)]
pub struct Settings {
    /// The source.
    pub url: Url,
    pub reading: Reading,
    /// Where marks are written at the source.
    pub marks: Marks,
    pub target: rest::Client,
    /// The route whose checkpoint says how far the target is.
    pub route: String,
    /// About how much of a table is read at once to be written.
    pub range_bytes: usize,
    /// Compare at most so many rows a second; 0: as fast as it goes.
    pub rows_per_second: u64,
    /// Most keys that a report lists for each table.
    pub listed: usize,
    /// Rows that only the target has are reported, and stay.
    pub keep_surplus: bool,
}

impl Settings {
    /// So many rows were read since `begun`: waits when that was faster than allowed. What was slow before is not made up
    /// for: the bound is what either side feels.
    async fn slow(&self, rows: u64, begun: Instant) {
        if self.rows_per_second > 0 {
            sleep_until(begun + Duration::from_secs_f64(rows as f64 / self.rows_per_second as f64)).await;
        }
    }

    /// At most so many rows are read at once: about what a second allows.
    fn at_once(&self, rows: u64) -> u64 {
        if self.rows_per_second == 0 { rows } else { rows.min(self.rows_per_second) }
    }
}

/// How the target's rows are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// By our function there, which makes digests.
    Digests,
    /// By plain PostgREST: every row travels. How far the target is, the slot tells.
    Rows { slot: String },
}

/// Compares the tables that the job names (all of `tables` when it names none), and repairs what differs if it says so.
///
/// A table that cannot be compared is reported as `Unknown` with its reason, and the others go on. A repair needs the
/// way into the stream; without one it is refused. `progress` is told after every part.
pub async fn run(
    settings: &Settings,
    tables: &[Table],
    job: &Job,
    inlet: Option<&Inlet>,
    progress: &watch::Sender<Option<Progress>>,
) -> Result<Vec<TableReport>, Fault> {
    if job.repair && inlet.is_none() {
        return Err(Fault::stop("a repair goes through the running service, and none runs here", "lockstep run"));
    }
    let wanted = wanted(tables, job)?;
    let client = session(settings).await?;
    let tools = Tools { settings, client: &client, inlet, repair: job.repair, heals: false };
    let mut reports = Vec::with_capacity(wanted.len());
    for (tables_done, table) in wanted.iter().enumerate() {
        let teller = Teller { progress, tables_done, tables: wanted.len() };
        let report = check(&tools, table, &teller).await;
        info!(
            table = %table.name, verdict = report.verdict.word(), rows = report.rows, missing = report.missing,
            different = report.different, surplus = report.surplus, repaired = report.repaired(),
            seconds = report.seconds, "compared"
        );
        count(&report);
        reports.push(report);
        if client.is_closed() {
            return Err(Fault::retry("the connection to the source was lost during the comparison"));
        }
    }
    Ok(reports)
}

/// What a comparison came to, for the metrics.
fn count(report: &TableReport) {
    let metrics = crate::metrics::get();
    metrics.reconcile_compared.inc_by(report.rows);
    for (kind, rows) in [("missing", report.missing), ("different", report.different), ("surplus", report.surplus)] {
        metrics.reconcile_mismatches.with_label_values(&[kind]).inc_by(rows);
    }
    for (kind, rows) in [("insert", report.inserted), ("update", report.updated), ("delete", report.deleted)] {
        metrics.reconcile_repaired.with_label_values(&[kind]).inc_by(rows);
    }
    let name = report.table.to_string();
    let table = metrics.table(&name);
    metrics.table_mismatches.with_label_values(&[table]).inc_by(report.differences());
    metrics.table_repaired.with_label_values(&[table]).inc_by(report.repaired());
}

/// The tables of a job, in the order of the route's.
fn wanted<'a>(tables: &'a [Table], job: &Job) -> Result<Vec<&'a Table>, Fault> {
    if let Some(unknown) = job.tables.iter().find(|name| tables.iter().all(|table| &table.name != *name)) {
        let fix = "name one that is replicated: `lockstep status` lists them";
        return Err(Fault::stop(format!("{unknown} is not a table of this route"), fix));
    }
    Ok(tables.iter().filter(|table| job.tables.is_empty() || job.tables.contains(&table.name)).collect())
}

/// A connection to the source on which values read as the target's functions write them.
async fn session(settings: &Settings) -> Result<Client, Fault> {
    let client = pg::connect(&settings.url, "lockstep reconcile").await?;
    let fault = |error: tokio_postgres::Error| pg::client::fault(&error);
    client.batch_execute(source::MONEY).await.map_err(fault)?;
    client.query_one(copy::SEARCH_PATH, &[]).await.map_err(fault)?;
    Ok(client)
}
