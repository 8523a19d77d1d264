//! A row that a change touches only in part and the target does not have: it is read again from the source.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Relation, Tuple};

#[derive(Debug)]
pub struct Reread {
    /// The columns that are wanted, in this order.
    pub relation: Arc<Relation>,
    /// Name and text of each of the key's columns.
    pub key: Vec<(String, String)>,
    /// Who made the change. A transaction is in the WAL a moment before others see it; a read in that moment would
    /// take its row for gone.
    pub xid: Option<u32>,
    /// The row as it is now; `None` when it is gone, which the stream will tell too.
    pub reply: oneshot::Sender<Option<Tuple>>,
}
