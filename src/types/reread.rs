//! Rows that changes touch only in part and the target does not have: they are read again from the source.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Position, Relation, Tuple};

/// Rows of one table, read in one look.
#[derive(Debug)]
pub struct Reread {
    /// The columns that are wanted, in this order.
    pub relation: Arc<Relation>,
    /// The key's columns.
    pub key: Vec<String>,
    /// Their values as text, for each row.
    pub rows: Vec<Vec<String>>,
    /// Who made the changes. A transaction is in the WAL a moment before others see it; a read in that moment would
    /// take its rows for gone.
    pub xids: Vec<u32>,
    /// No more bytes than this, unless a single row has them.
    pub most: usize,
    pub reply: oneshot::Sender<Read>,
}

#[derive(Debug)]
pub struct Read {
    /// Each row as it is now; `None` when it is gone, which the stream will tell too. Nothing at all when they are more
    /// than `most`.
    pub rows: Option<Vec<Option<Tuple>>>,
    /// What was read may have been committed up to here.
    pub at: Position,
}
