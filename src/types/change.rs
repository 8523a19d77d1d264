//! What capture hands on: committed transactions, in commit order, made of row changes.

use std::sync::Arc;

use bytes::Bytes;

use super::{Lsn, Position, TableName, Tuple};

/// A table as the source described it in the stream just before its changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub oid: u32,
    pub name: TableName,
    /// `d`efault, `n`othing, `f`ull or `i`ndex: pg_class.relreplident.
    pub identity: u8,
    pub columns: Vec<RelationColumn>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    pub name: String,
    /// Part of the replica identity.
    pub key: bool,
    pub type_oid: u32,
    pub type_modifier: i32,
}

/// One change. `old` is there when the identity changed or the identity is FULL; with FULL it holds every column,
/// else the key's columns, the others being NULL.
#[derive(Clone, Debug)]
pub enum Change {
    Insert {
        relation: Arc<Relation>,
        new: Tuple,
    },
    Update {
        relation: Arc<Relation>,
        old: Option<Tuple>,
        new: Tuple,
    },
    Delete {
        relation: Arc<Relation>,
        old: Tuple,
    },
    Truncate {
        relations: Vec<Arc<Relation>>,
        cascade: bool,
        restart_identity: bool,
    },
    /// A logical message written by us (prefix `lockstep`): a watermark.
    Message {
        content: Bytes,
    },
}

impl Change {
    /// Bytes it holds, for the bounds of queues and batches.
    pub fn size(&self) -> usize {
        // What the enum and its allocations cost beside the row itself.
        const OVERHEAD: usize = 96;
        OVERHEAD
            + match self {
                Self::Insert { new, .. } => new.size(),
                Self::Update { old, new, .. } => old.as_ref().map_or(0, Tuple::size) + new.size(),
                Self::Delete { old, .. } => old.size(),
                Self::Truncate { relations, .. } => relations.len() * 8,
                Self::Message { content } => content.len(),
            }
    }
}

/// A committed transaction, or a part of one that is too large to be held whole.
#[derive(Clone, Debug)]
pub struct Transaction {
    pub xid: u32,
    /// Where its commit record starts.
    pub commit: Lsn,
    /// The route's position once these changes are applied: `(commit end, 0)`, or `(commit, changes so far)` for every
    /// part but the last.
    pub end: Position,
    /// Microseconds since the Unix epoch, by the source's clock.
    pub committed_at: i64,
    pub changes: Vec<Change>,
    /// Sum of the changes' sizes, in bytes.
    pub bytes: usize,
}

impl Transaction {
    /// Whether nothing of the transaction follows.
    pub fn is_last_part(&self) -> bool {
        self.end.minor == 0
    }
}
