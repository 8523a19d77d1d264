//! Rows of the journal in, changes of one transaction out: the same events that a slot gives. Pure.

use std::sync::Arc;

use super::record;
use crate::types::{Change, Fault, Lsn, Malformed, Position, Relation, Transaction, Tuple, TupleBuilder};

/// What the lines of some rows hold.
#[derive(Debug)]
pub struct Known {
    pub relation: Arc<Relation>,
    /// Where the key's columns stand, in the key's order.
    pub key: Vec<usize>,
}

/// One row of the journal.
#[derive(Debug)]
pub struct Row<'a> {
    pub op: u8,
    pub known: Option<Arc<Known>>,
    pub key: Option<&'a str>,
    pub line: Option<&'a str>,
}

/// The transaction that is being read.
pub struct Open {
    xid: u64,
    /// Where its last statement stands.
    commit: Lsn,
    at: i64,
    /// Changes so far, those in earlier parts and the skipped ones included: the next part's `minor`.
    seen: u64,
    skip: u64,
    part_bytes: usize,
    changes: Vec<Change>,
    bytes: usize,
    parts: bool,
    held: Held,
}

/// What the next row decides about.
enum Held {
    Nothing,
    /// Tables that one statement emptied come one after the other; whether their identities begin anew, as far as some
    /// have any.
    Truncate(Vec<Arc<Relation>>, Option<bool>),
}

impl Open {
    /// Of its changes the first `skip` were applied before.
    pub fn new(xid: u64, commit: Lsn, at: i64, skip: u64, part_bytes: usize) -> Self {
        let (changes, held) = (Vec::new(), Held::Nothing);
        Self { xid, commit, at, seen: 0, skip, part_bytes, changes, bytes: 0, parts: skip > 0, held }
    }

    /// Takes its next row; a part that is full comes out.
    pub fn take(&mut self, row: Row<'_>) -> Result<Vec<Transaction>, Fault> {
        let mut out = Vec::new();
        if row.op == b'm' {
            self.let_go(&mut out);
            let content = row.line.unwrap_or_default().as_bytes().to_vec().into();
            self.push(Change::Message { content }, &mut out);
            return Ok(out);
        }
        let known = row.known.clone().ok_or_else(|| broken(Malformed("a row of a table that was not described")))?;
        let key = || row.key.map_or_else(missing, |text| known.key_row(text));
        let line = || row.line.map_or_else(missing, |text| known.line(text));
        match (row.op, std::mem::replace(&mut self.held, Held::Nothing)) {
            (b't', Held::Truncate(mut relations, restart)) => {
                relations.push(known.relation.clone());
                // All of a statement's or none: one that goes on speaks for the others.
                let both = restart.zip(restarts(&row)).map(|(one, other)| one && other);
                self.held = Held::Truncate(relations, both.or(restart).or(restarts(&row)));
                return Ok(out);
            }
            (_, held) => {
                self.held = held;
                self.let_go(&mut out);
            }
        }
        let relation = known.relation.clone();
        match row.op {
            b'i' => self.push(Change::Insert { relation, new: line()? }, &mut out),
            b'u' => self.push(Change::Update { relation, old: None, new: line()? }, &mut out),
            b'k' => self.push(Change::Update { relation, old: Some(key()?), new: line()? }, &mut out),
            b'd' => self.push(Change::Delete { relation, old: key()? }, &mut out),
            b't' => self.held = Held::Truncate(vec![relation], restarts(&row)),
            _ => return Err(broken(Malformed("a row of an unknown kind"))),
        }
        Ok(out)
    }

    /// Nothing more of it comes. Nothing comes out of one that held nothing.
    pub fn end(mut self) -> Result<Vec<Transaction>, Fault> {
        let mut out = Vec::new();
        self.let_go(&mut out);
        if self.seen < self.skip {
            return Err(vanished(Position { major: self.commit.0, minor: self.skip }, self.commit));
        }
        if !self.changes.is_empty() || self.parts {
            out.push(self.part(end_of(self.commit)));
        }
        Ok(out)
    }

    fn let_go(&mut self, out: &mut Vec<Transaction>) {
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing => {}
            Held::Truncate(relations, restart) => {
                let restart_identity = restart == Some(true);
                self.push(Change::Truncate { relations, cascade: false, restart_identity }, out);
            }
        }
    }

    fn push(&mut self, change: Change, out: &mut Vec<Transaction>) {
        if self.seen < self.skip {
            self.seen += 1;
            return;
        }
        let size = change.size();
        // Cut only when one more change is at hand: the last part is never empty.
        if !self.changes.is_empty() && self.bytes.saturating_add(size) > self.part_bytes {
            self.parts = true;
            out.push(self.part(Position { major: self.commit.0, minor: self.seen }));
        }
        self.seen += 1;
        self.bytes += size;
        self.changes.push(change);
    }

    fn part(&mut self, end: Position) -> Transaction {
        Transaction {
            xid: self.xid as u32, // the lower half, as the stream of a slot has it
            commit: self.commit,
            end,
            committed_at: self.at,
            changes: std::mem::take(&mut self.changes),
            bytes: std::mem::take(&mut self.bytes),
        }
    }
}

/// The position behind a transaction: no other message of the WAL lies so near to its own.
pub fn end_of(commit: Lsn) -> Position {
    Position::at(Lsn(commit.0.saturating_add(1)))
}

impl Known {
    fn line(&self, text: &str) -> Result<Tuple, Fault> {
        let (mut row, mut columns) = (TupleBuilder::new(), 0);
        record::fields(text, |cell| {
            row.push(cell);
            columns += 1;
        })
        .map_err(broken)?;
        if columns != self.relation.columns.len() {
            return Err(broken(Malformed("a row with another number of columns than its table")));
        }
        Ok(row.finish())
    }

    /// A row of which only the key is known, as a slot brings it with a delete.
    fn key_row(&self, text: &str) -> Result<Tuple, Fault> {
        let mut values = Vec::new();
        record::fields(text, |cell| values.push(TupleBuilder::of(cell))).map_err(broken)?;
        if values.len() != self.key.len() {
            return Err(broken(Malformed("a key with another number of columns than its table's")));
        }
        let mut row = TupleBuilder::new();
        for at in 0..self.relation.columns.len() {
            let value = self.key.iter().position(|&key| key == at).and_then(|place| values.get(place));
            row.push(value.and_then(|one| one.cells().next()).unwrap_or(crate::types::Cell::Null));
        }
        Ok(row.finish())
    }
}

/// What a truncate says of the table's identities; nothing where it has none.
fn restarts(row: &Row<'_>) -> Option<bool> {
    row.line.map(|line| line == "restart")
}

fn missing<T>() -> Result<T, Fault> {
    Err(broken(Malformed("a row without its text")))
}

fn broken(malformed: Malformed) -> Fault {
    Fault::stop(
        format!("the source's journal cannot be understood ({malformed})"),
        "report this as a bug with the source's version; nothing was skipped",
    )
}

/// The half of a transaction that is still missing is not there any more: the next start finds that, and begins anew.
pub fn vanished(resume: Position, found: Lsn) -> Fault {
    Fault::retry(format!(
        "the journal no longer holds the transaction that was applied up to {resume}, but goes on at {found}"
    ))
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
