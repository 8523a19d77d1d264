//! Compare and repair by key ranges between watermarks. Today this is the first copy: every range of a target that
//! is empty differs, so it skips the comparison.
//!
//! A range is read beside the stream: a watermark into the WAL, the read, a second watermark. The pipeline lays the
//! rows into the stream at the second mark (`pipeline::window`). No long transaction, one slot, and the progress is
//! stored in the target together with the rows, so a kill costs one range.

mod order;
mod read;
mod reread;
mod wait;

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::pg::{self, Client, Url};
use crate::types::{CopyMark, Fault, Merged, Range, Table, Watermark};
use read::Reader;
pub use reread::reread;

pub struct Settings {
    pub url: Url,
    /// Which start of the service this is: the pipeline knows only its own watermarks.
    pub run: u64,
    /// About how much of a table is read at once.
    pub range_bytes: usize,
}

/// A table to copy, and how far an earlier start got.
pub struct Copy {
    pub table: Table,
    pub mark: CopyMark,
}

/// Ranges that were read and are not merged yet. Two: while one waits for its watermark to come by, the next is read.
const IN_FLIGHT: usize = 2;

/// Before a range is read again: what stood in the way (a commit that waits for its standby) may take a moment.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// A range begins behind a key, as the key's own operator has it: where that is an extension's (citext), it must be in
/// sight, or the key would be compared as text and rows be skipped.
const SEARCH_PATH: &str = "select set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), \
     (select string_agg(distinct quote_ident(n.nspname), ', ') from pg_extension e \
      join pg_namespace n on n.oid = e.extnamespace where n.nspname <> 'pg_catalog')), false)";

/// Copies the tables one after the other; returns when all rows are on their way.
pub async fn copy(settings: &Settings, tables: Vec<Copy>, ranges: mpsc::Sender<Range>) -> Result<(), Fault> {
    if tables.is_empty() {
        return Ok(());
    }
    let client = pg::connect(&settings.url, "lockstep copy").await?;
    wait::until_the_running_ended(&client).await?;
    client.query_one(SEARCH_PATH, &[]).await.map_err(|e| pg::client::fault(&e))?;
    let tables = order::parents_first(&client, tables).await?;
    let mut marks = Marks { client: &client, run: settings.run, next: 1 };
    for Copy { table, mark } in tables {
        info!(table = %table.name, estimated = table.estimated_rows, already = mark.rows, "copying");
        let name = table.name.clone();
        let rows = one(&client, &mut marks, settings.range_bytes, table, mark, &ranges).await?;
        info!(table = %name, rows, "copied");
    }
    Ok(())
}

/// A range that was handed over, and from where it was read, in case it must be read again.
struct Waiting {
    from: CopyMark,
    merged: oneshot::Receiver<Merged>,
}

async fn one(
    client: &Client,
    marks: &mut Marks<'_>,
    range_bytes: usize,
    table: Table,
    mut mark: CopyMark,
    ranges: &mpsc::Sender<Range>,
) -> Result<u64, Fault> {
    let mut reader = Reader::new(client, &table, range_bytes).await?;
    let mut builds_on = None;
    let mut waiting = VecDeque::<Waiting>::new();
    loop {
        while waiting.len() >= IN_FLIGHT || (mark.done && !waiting.is_empty()) {
            let Some(Waiting { from, merged }) = waiting.pop_front() else { break };
            match merged.await {
                Ok(Merged::Yes) => {}
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
        let low = marks.low(table.oid).await?;
        let read = reader.read(&mark.cursor).await?;
        mark.rows += read.rows.len() as u64;
        mark.done = read.is_last;
        if let Some(last) = read.last_key {
            mark.cursor = last;
        }
        let (reply, merged) = oneshot::channel();
        let relation = reader.relation.clone();
        let range =
            Range { id: low, builds_on, relation, rows: read.rows, snapshot: read.snapshot, mark: mark.clone(), reply };
        ranges.send(range).await.map_err(|_| Fault::retry("the pipeline ended during the first copy"))?;
        marks.high(low).await?;
        builds_on = Some(low);
        waiting.push_back(Waiting { from, merged });
    }
}

/// Writes watermarks. Each is a transaction of its own: the stream brings it in its place among the commits.
struct Marks<'a> {
    client: &'a Client,
    run: u64,
    next: u64,
}

const EMIT: &str = "select pg_logical_emit_message(true, 'lockstep', $1)";

impl Marks<'_> {
    async fn low(&mut self, table: u32) -> Result<u64, Fault> {
        let range = self.next;
        self.next += 1;
        self.emit(Watermark { run: self.run, high: None, low: Some((range, table)) }).await?;
        Ok(range)
    }

    async fn high(&self, range: u64) -> Result<(), Fault> {
        self.emit(Watermark { run: self.run, high: Some(range), low: None }).await
    }

    async fn emit(&self, mark: Watermark) -> Result<(), Fault> {
        let text = serde_json::to_string(&mark).unwrap_or_default(); // three numbers: JSON holds them
        self.client.execute(EMIT, &[&text]).await.map_err(|e| pg::client::fault(&e))?;
        Ok(())
    }
}

/// The relation a reader's rows have, shared by all of them.
type SharedRelation = Arc<crate::types::Relation>;
