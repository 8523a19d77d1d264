//! What travels from the pipeline to apply: whole transactions in commit order, and the ranges of a first copy that
//! were merged between them.

use tokio::sync::oneshot;

use super::{Change, Position, TableName};

#[derive(Debug, Default)]
pub struct Batch {
    /// The route's position once all of it is applied.
    pub upto: Position,
    /// Changes of all its transactions, in source order.
    pub changes: Vec<Change>,
    /// Where the changes of each transaction begin, and its number at the source.
    pub begins: Vec<(usize, u32)>,
    /// How far the first copy of a table is once this batch is applied.
    pub copied: Vec<CopyMark>,
    pub transactions: u64,
    /// Size of the changes, in bytes.
    pub bytes: usize,
    /// It holds a mark: somebody waits for the checkpoint to move, even where there is nothing to write.
    pub marked: bool,
    /// Commit time of its oldest transaction with changes: microseconds since the Unix epoch, by the source's clock.
    pub committed_at: Option<i64>,
}

impl Batch {
    /// The number of the transaction that made a change; rows of a range count to the one they lie in.
    pub fn xid_of(&self, change: usize) -> Option<u32> {
        let behind = self.begins.partition_point(|&(begin, _)| begin <= change);
        self.begins.get(behind.checked_sub(1)?).map(|&(_, xid)| xid)
    }
}

/// Progress of a table's first copy, stored in the target together with the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyMark {
    pub table: TableName,
    /// Which table at the source it is: another one may take its name.
    pub oid: u32,
    /// The last key that was copied, column by column, as text; empty before the first range.
    pub cursor: Vec<String>,
    pub done: bool,
    /// Rows read for it so far.
    pub rows: u64,
}

/// Apply's wish for the next batch. It pulls, so that a batch is closed only when somebody is ready for it: idle, a
/// change leaves at once; under load, batches grow by themselves.
#[derive(Debug)]
pub struct Pull {
    /// Only a batch that has reached its size limit; to be prepared while another one is in flight.
    pub full: bool,
    pub reply: oneshot::Sender<Batch>,
}
