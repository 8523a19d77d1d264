//! Messages of the stream in, committed transactions out. Pure: it knows no connection and no clock.
//!
//! It holds one part of one transaction at most, so its memory does not grow with a transaction's size.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;

use super::pgoutput::{self, Message};
use crate::types::{Cell, Change, Fault, Lsn, Malformed, Position, Relation, Transaction, Tuple, TupleBuilder};

/// Messages that we wrote ourselves.
const OUR_PREFIX: &[u8] = b"lockstep";

pub struct Assembler {
    resume: Position,
    part_bytes: usize,
    relations: HashMap<u32, Arc<Relation>>,
    open: Option<Open>,
}

/// What a message led to.
#[derive(Debug)]
pub enum Step {
    /// More must come.
    Nothing,
    /// A transaction, or the next part of one.
    Ready(Transaction),
    /// A transaction ended here of which nothing is left to hand on.
    Empty(Lsn),
}

/// The transaction that is being read.
struct Open {
    xid: u32,
    commit: Lsn,
    committed_at: i64,
    /// Changes seen so far, the skipped ones and those in earlier parts included: the next part's `minor`.
    seen: u64,
    /// Of these the first so many were applied before we started.
    skip: u64,
    changes: Vec<Change>,
    bytes: usize,
}

impl Assembler {
    /// Everything up to `resume` was applied before. A transaction larger than `part_bytes` is handed on in parts.
    pub fn new(resume: Position, part_bytes: usize) -> Self {
        Self { resume, part_bytes, relations: HashMap::new(), open: None }
    }

    /// Whether a transaction has begun whose last part was not handed on.
    pub fn half_read(&self) -> bool {
        self.open.is_some()
    }

    /// Takes one message of the stream.
    pub fn take(&mut self, data: Bytes) -> Result<Step, Fault> {
        let change = match pgoutput::decode(data).map_err(broken)? {
            Message::Begin { commit, committed_at, xid } => return self.begin(commit, committed_at, xid),
            Message::Commit { commit, end } => return self.commit(commit, end),
            Message::Relation(relation) => return Ok(self.describe(relation)),
            Message::Ignored => return Ok(Step::Nothing),
            Message::Insert { relation, new } => {
                let relation = self.relation(relation)?;
                Change::Insert { new: fitting(&relation, new)?, relation }
            }
            Message::Update { relation, old, new } => {
                let relation = self.relation(relation)?;
                let old = old.map(|old| fitting(&relation, old)).transpose()?;
                let new = fitting(&relation, new)?;
                // FULL: what the new row leaves out as unchanged stands in the old one.
                let new = match &old {
                    Some(old) if relation.identity == b'f' && new.is_partial() => completed(old, &new),
                    _ => new,
                };
                Change::Update { old, new, relation }
            }
            Message::Delete { relation, old } => {
                let relation = self.relation(relation)?;
                Change::Delete { old: fitting(&relation, old)?, relation }
            }
            Message::Truncate { relations, cascade, restart_identity } => {
                let relations = relations.into_iter().map(|oid| self.relation(oid)).collect::<Result<_, _>>()?;
                Change::Truncate { relations, cascade, restart_identity }
            }
            Message::Logical { prefix, .. } if prefix != OUR_PREFIX => return Ok(Step::Nothing),
            Message::Logical { transactional: false, at, content, .. } => return Ok(self.alone(at, content)),
            Message::Logical { content, .. } => Change::Message { content },
        };
        self.push(change)
    }

    fn begin(&mut self, commit: Lsn, committed_at: i64, xid: u32) -> Result<Step, Fault> {
        if self.open.is_some() {
            return Err(broken(Malformed("a transaction begins inside another")));
        }
        let skip = match self.resume {
            Position { major, .. } if commit.0 < major => u64::MAX, // applied before, whole
            Position { major, minor } if commit.0 == major => minor,
            Position { minor: 0, .. } => 0,
            half => return Err(vanished(half, commit)),
        };
        self.open = Some(Open { xid, commit, committed_at, seen: 0, skip, changes: Vec::new(), bytes: 0 });
        Ok(Step::Nothing)
    }

    fn push(&mut self, change: Change) -> Result<Step, Fault> {
        let open = self.open.as_mut().ok_or_else(|| broken(Malformed("a change outside of a transaction")))?;
        if open.seen < open.skip {
            open.seen += 1;
            return Ok(Step::Nothing);
        }
        let size = change.size();
        // Cut only when one more change is at hand: the last part is never empty.
        let full = !open.changes.is_empty() && open.bytes.saturating_add(size) > self.part_bytes;
        let part = full.then(|| open.part(Position { major: open.commit.0, minor: open.seen }));
        open.seen += 1;
        open.bytes += size;
        open.changes.push(change);
        Ok(part.map_or(Step::Nothing, Step::Ready))
    }

    fn commit(&mut self, commit: Lsn, end: Lsn) -> Result<Step, Fault> {
        let Some(mut open) = self.open.take().filter(|open| open.commit == commit && end > commit) else {
            return Err(broken(Malformed("a commit that fits no transaction")));
        };
        let resumed = open.skip != u64::MAX && open.skip > 0;
        if resumed {
            if open.seen < open.skip {
                return Err(vanished(self.resume, commit));
            }
            self.resume = Position::at(end);
        }
        // A transaction that was handed on in part needs its end handed on too, even with nothing left in it.
        if open.changes.is_empty() && !resumed {
            return Ok(Step::Empty(end));
        }
        Ok(Step::Ready(open.part(Position::at(end))))
    }

    /// A message of ours outside of any transaction. Where it stands is where its record ends, and the next one begins:
    /// a position behind that would leave out a commit that stands there.
    fn alone(&self, at: Lsn, content: Bytes) -> Step {
        let end = Position::at(at);
        if end <= self.resume {
            return Step::Nothing;
        }
        let change = Change::Message { content };
        let bytes = change.size();
        Step::Ready(Transaction { xid: 0, commit: at, end, committed_at: 0, changes: vec![change], bytes })
    }

    fn describe(&mut self, relation: Relation) -> Step {
        // The server repeats itself after every invalidation; keeping the old one lets others compare by pointer.
        match self.relations.get(&relation.oid) {
            Some(known) if **known == relation => {}
            _ => drop(self.relations.insert(relation.oid, Arc::new(relation))),
        }
        Step::Nothing
    }

    fn relation(&self, oid: u32) -> Result<Arc<Relation>, Fault> {
        self.relations.get(&oid).cloned().ok_or_else(|| broken(Malformed("a row of a table that was not described")))
    }
}

impl Open {
    fn part(&mut self, end: Position) -> Transaction {
        Transaction {
            xid: self.xid,
            commit: self.commit,
            end,
            committed_at: self.committed_at,
            changes: std::mem::take(&mut self.changes),
            bytes: std::mem::take(&mut self.bytes),
        }
    }
}

/// The new row with what the old one holds of it. NULL is no value that was left out for its size: of a partition whose
/// identity is not its root's the old row holds the key only, and the rest is still missing.
fn completed(old: &Tuple, new: &Tuple) -> Tuple {
    let mut whole = TupleBuilder::new();
    for (old, new) in old.cells().zip(new.cells()) {
        whole.push(match (old, new) {
            (old @ Cell::Text(_), Cell::Unchanged) => old,
            (_, new) => new,
        });
    }
    whole.finish()
}

fn fitting(relation: &Relation, row: Tuple) -> Result<Tuple, Fault> {
    if row.columns() == relation.columns.len() {
        Ok(row)
    } else {
        Err(broken(Malformed("a row with another number of columns than its table")))
    }
}

fn broken(malformed: Malformed) -> Fault {
    Fault::stop(
        format!("the source's stream cannot be understood ({malformed})"),
        "report this as a bug with the source's version; nothing was skipped",
    )
}

/// The half of a transaction that is still missing will not come any more.
fn vanished(resume: Position, found: Lsn) -> Fault {
    Fault::stop(
        format!("the source no longer sends the transaction that was applied up to {resume}, but goes on at {found}"),
        "compare and repair both sides: lockstep sync",
    )
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
