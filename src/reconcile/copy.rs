//! Brings tables whose copy is not finished to the target. Nothing else moves the marks of copies.
//!
//! Where the target is empty every row differs, so nothing is compared. Where it holds rows (after a recovery, which
//! leaves the rows of all tables in doubt) both sides are compared, and only what differs is written.
//!
//! Ranges are read one behind the other, each between two watermarks, and the next one is read while the last one waits
//! for its mark to come by. The progress is stored in the target together with the rows, so a kill costs one range.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use super::check::{Teller, Tools, check};
use super::read::{Reader, relation};
use super::{Inlet, Reading, Record, Settings, order, session, wait};
use crate::pg::{self, Client};
use crate::types::{CopyMark, Fault, Merged, Range, Table, Verdict};

/// A table to copy, and how far an earlier start got.
pub struct Copy {
    pub table: Table,
    pub mark: CopyMark,
    /// The target holds rows already, and what they are is not known: it is compared and repaired.
    pub in_doubt: bool,
}

/// Ranges that were read and are not merged yet. Two: while one waits for its watermark to come by, the next is read.
const IN_FLIGHT: usize = 2;

/// Before a range is read again: what stood in the way (a commit that waits for its standby) may take a moment.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// A range begins behind a key, as the key's own operator has it: where that is an extension's (citext), it must be in
/// sight, or the key would be compared as text and rows be skipped.
pub(super) const SEARCH_PATH: &str = "select set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), \
     (select string_agg(distinct quote_ident(n.nspname), ', ') from pg_extension e \
      join pg_namespace n on n.oid = e.extnamespace where n.nspname <> 'pg_catalog')), false)";

/// Copies the tables one after the other; returns when all rows are on their way.
/// What is compared in doing so is put on `record`.
pub async fn copy(settings: &Settings, tables: Vec<Copy>, record: &Record, inlet: &Inlet) -> Result<(), Fault> {
    if tables.is_empty() {
        return Ok(());
    }
    let client = session(settings).await?;
    wait::until_the_running_ended(&client).await?;
    let tables = order::parents_first(&client, tables).await?;
    for Copy { table, mut mark, in_doubt } in tables {
        if in_doubt {
            record.begin(&client, &table.name).await;
            if compare(settings, &client, inlet, &table, mark.clone(), record).await? {
                continue;
            }
            mark = CopyMark { done: false, rows: 0, cursor: Vec::new(), ..mark };
        }
        info!(table = %table.name, estimated = table.estimated_rows, already = mark.rows, "copying");
        let name = table.name.clone();
        let rows = one(&client, inlet, settings.range_bytes, table, mark).await?;
        info!(table = %name, rows, "copied");
    }
    Ok(())
}

/// Makes the target what the source is by comparison, and ends the copy with it. False if the table must be copied over.
async fn compare(
    settings: &Settings,
    client: &Client,
    inlet: &Inlet,
    table: &Table,
    mark: CopyMark,
    record: &Record,
) -> Result<bool, Fault> {
    info!(table = %table.name, estimated = table.estimated_rows, "comparing what the target holds already");
    let tools = Tools { settings, client, inlet: Some(inlet), repair: true, heals: true };
    let progress = watch::Sender::new(None);
    let report = check(&tools, table, &Teller { progress: &progress, tables_done: 0, tables: 1 }).await;
    super::count(&report);
    // A row of the stream may wait for this very table, and the checkpoint with it. What only the target has stays then,
    // until the table is compared again: that is asked for at once.
    if let (Verdict::Unknown { why }, Reading::Rows { .. }) = (&report.verdict, &settings.reading) {
        info!(table = %table.name, cause = %why, "it cannot be compared now; all of it is copied over");
        record.unseen(client, &report, why).await;
        return Ok(false);
    }
    record.end(client, &report).await;
    let (inserted, updated, deleted) = (report.inserted, report.updated, report.deleted);
    match report.verdict {
        Verdict::Unknown { why } => return Err(Fault::retry(format!("{}: {why}", table.name))),
        Verdict::Different if !settings.keep_surplus => {
            let example = report.keys.first().map(|difference| difference.key.join(", ")).unwrap_or_default();
            warn!(table = %table.name, %example, "rows differ that cannot be made equal: do the columns have other types?");
        }
        _ => {}
    }
    info!(table = %table.name, rows = report.rows, inserted, updated, deleted, "compared and repaired");
    let mark = CopyMark { done: true, rows: report.rows, cursor: Vec::new(), ..mark };
    let relation = Arc::new(relation(table));
    loop {
        let low = inlet.low(client, table.oid).await?;
        let row = client.query_one("select pg_current_snapshot()::text", &[]).await;
        let row = row.map_err(|error| pg::client::fault(&error))?;
        let snapshot = row.get::<_, String>(0).parse().map_err(|cause: String| Fault::retry(cause))?;
        let (reply, merged) = oneshot::channel();
        let (relation, mark) = (relation.clone(), Some(mark.clone()));
        let (gone, rows) = (Vec::new(), Vec::new());
        let range = Range { id: low, builds_on: None, relation, gone, rows, snapshot, mark, reply };
        inlet.high(client, range).await?;
        match merged.await {
            Ok(Merged::Yes { .. }) => return Ok(true),
            Ok(Merged::ReadAgain) => tokio::time::sleep(PAUSE).await,
            Err(_) => return Err(Fault::retry("the route ended during the copy")),
        }
    }
}

/// A range that was handed over, and from where it was read, in case it must be read again.
struct Waiting {
    from: CopyMark,
    merged: oneshot::Receiver<Merged>,
}

async fn one(
    client: &Client,
    inlet: &Inlet,
    range_bytes: usize,
    table: Table,
    mut mark: CopyMark,
) -> Result<u64, Fault> {
    let mut reader = Reader::new(client, &table, range_bytes).await?;
    let mut builds_on = None;
    let mut waiting = VecDeque::<Waiting>::new();
    loop {
        while waiting.len() >= IN_FLIGHT || (mark.done && !waiting.is_empty()) {
            let Some(Waiting { from, merged }) = waiting.pop_front() else { break };
            match merged.await {
                Ok(Merged::Yes { .. }) => {}
                Ok(Merged::ReadAgain) => {
                    warn!(table = %table.name, "a range changed too much while it was read; reading it again, smaller");
                    // What was read behind it waits for it: the progress that is stored must have no hole.
                    waiting.clear();
                    builds_on = None;
                    reader.shrink();
                    tokio::time::sleep(PAUSE).await;
                    mark = from;
                }
                Err(_) => return Err(Fault::retry("the pipeline ended during the first copy")),
            }
        }
        if mark.done {
            return Ok(mark.rows);
        }
        let from = mark.clone();
        let low = inlet.low(client, table.oid).await?;
        let read = reader.read(&mark.cursor).await?;
        mark.rows += read.rows.len() as u64;
        mark.done = read.is_last;
        if let Some(last) = read.last_key {
            mark.cursor = last;
        }
        let (reply, merged) = oneshot::channel();
        let relation = reader.relation.clone();
        let range = Range {
            id: low,
            builds_on,
            relation,
            gone: Vec::new(),
            rows: read.rows,
            snapshot: read.snapshot,
            mark: Some(mark.clone()),
            reply,
        };
        inlet.high(client, range).await?;
        builds_on = Some(low);
        waiting.push_back(Waiting { from, merged });
    }
}
