//! The way into the stream, for all who read beside it: watermarks at the source, ranges to the pipeline.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::{mpsc, watch};

use super::wait;
use crate::pg::{self, Client};
use crate::types::{Fault, Lsn, Position, Range, Watermark};

/// One for each life of the route; its clones share the numbers of the ranges.
#[derive(Clone)]
pub struct Inlet {
    run: u64,
    next: Arc<AtomicU64>,
    ranges: mpsc::Sender<Range>,
    reached: watch::Receiver<Position>,
    marks: Marks,
}

/// Where watermarks are written, so that whoever captures meets them in their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    Wal,
    /// And into the WAL.
    Journal,
}

const EMIT: &str = "select pg_logical_emit_message(true, 'lockstep', $1)::text";
const JOURNAL: &str = "select lockstep.journal_mark($1)::text";

impl Inlet {
    /// `run` is the number that the pipeline knows its own watermarks by; `reached` tells how far everything is in the
    /// target; its checkpoint may follow a moment later.
    pub fn new(run: u64, ranges: mpsc::Sender<Range>, reached: watch::Receiver<Position>, marks: Marks) -> Self {
        Self { run, next: Arc::new(AtomicU64::new(1)), ranges, reached, marks }
    }

    /// Tells how far the target is.
    pub fn reached(&self) -> watch::Receiver<Position> {
        self.reached.clone()
    }

    /// A range of this table begins: what was committed before this mark, a read behind it sees.
    pub async fn low(&self, client: &Client, table: u32) -> Result<u64, Fault> {
        let range = self.next.fetch_add(1, Relaxed);
        self.emit(client, &Watermark { run: self.run, high: None, low: Some((range, table)) }).await?;
        if self.marks == Marks::Journal {
            // The journal's order is that of the last statements: what stands before this mark may still be open, and
            // would be missing in the read.
            wait::until_the_horizon_passed(client).await?;
        }
        Ok(range)
    }

    /// Hands the range over and marks its end. Once the target has passed the point that is returned, it holds the rows.
    pub async fn high(&self, client: &Client, range: Range) -> Result<Lsn, Fault> {
        let high = Some(range.id);
        self.ranges.send(range).await.map_err(|_| Fault::retry("the route ended while rows were read for it"))?;
        self.emit(client, &Watermark { run: self.run, high, low: None }).await
    }

    async fn emit(&self, client: &Client, mark: &Watermark) -> Result<Lsn, Fault> {
        write(client, self.marks, &serde_json::to_string(mark).unwrap_or_default()).await // three numbers: JSON holds them
    }
}

/// Writes a mark of its own among the commits: whoever has passed it holds all that was committed before.
pub async fn write(client: &Client, marks: Marks, text: &str) -> Result<Lsn, Fault> {
    let sql = match marks {
        Marks::Wal => EMIT,
        Marks::Journal => JOURNAL,
    };
    let row = client.query_one(sql, &[&text]).await.map_err(|error| pg::client::fault(&error))?;
    row.get::<_, String>(0).parse().map_err(Fault::retry)
}
