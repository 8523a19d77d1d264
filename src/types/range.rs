//! A range of a table that was read beside the stream, between two watermarks.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{CopyMark, Relation, Snapshot, Tuple};

/// A mark in the source's WAL, written as a logical message. The stream brings it back in its place among the commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// Which start of the service wrote it: marks of an earlier one mean nothing any more.
    pub run: u64,
    /// The range that ends here.
    pub high: Option<u64>,
    /// The range that begins here, and its table.
    pub low: Option<(u64, u32)>,
}

/// A range that was read. It is handed over before its high watermark is written, so that it is there when the
/// watermark comes by.
#[derive(Debug)]
pub struct Range {
    pub id: u64,
    /// The range before it in the same copy, when that one is on its way too: if it must be read again, so must this
    /// one, or the stored progress would skip it.
    pub builds_on: Option<u64>,
    /// The table as the range was read: its columns, and which make the key.
    pub relation: Arc<Relation>,
    /// Keys that the read looked for and did not find: rows that only the target has. They go first, so that unique
    /// values can move to other rows.
    pub gone: Vec<Tuple>,
    pub rows: Vec<Tuple>,
    /// What the read saw.
    pub snapshot: Snapshot,
    /// How far the copy is once these rows are in the target; a repair of single rows moves no copy.
    pub mark: Option<CopyMark>,
    pub reply: oneshot::Sender<Merged>,
}

/// What became of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    /// Its rows are on their way, but for those that the stream has brought meanwhile: their places in `gone` and,
    /// counted on, in `rows`. Not told for a copy, where nobody asks.
    Yes { left_out: Vec<usize> },
    /// It must be read again: what happened meanwhile was too much to remember, or a commit that the stream had brought
    /// already was not visible yet when it was read.
    ReadAgain,
}
