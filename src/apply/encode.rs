//! Writes rows of one table and kind as one array literal for each column (`sql/supabase/functions.sql` reads them).
//!
//! A value goes into its literal as the text that the source wrote, quoted: on the other side the column's own type
//! reads it, and nothing in between does.

use std::collections::HashSet;

use serde::Serialize;

use super::plan::{Write, key};
use super::shape::Mapped;
use crate::types::{Cell, TableName, Tuple};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    Upsert,
    Patch,
    Delete,
    Rekey,
    Truncate,
}

impl Op {
    pub fn of(write: &Write) -> Self {
        match write {
            Write::Upsert(_) => Self::Upsert,
            Write::Patch(_) => Self::Patch,
            Write::Delete(_) => Self::Delete,
            Write::Rekey { .. } => Self::Rekey,
        }
    }
}

/// One statement of a batch, as the header names it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    pub op: Op,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub schema: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub table: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    pub rows: u64,
    /// Where its values begin, and how many bytes they are.
    pub at: usize,
    pub bytes: usize,
    /// Bytes of each column's literal, in the order in which they lie in the body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lengths: Vec<usize>,
    /// Of a single row: where in `bytes` each column's literal begins (from 1), then how long each is. An array literal.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub spans: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<(String, String)>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub restart_identity: bool,
    /// A changed key whose row came only in part.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// Which transaction of the source it belongs to, where a group is one row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xid: Option<u32>,
    /// The key of its first row, for a person.
    #[serde(skip)]
    pub first_key: String,
}

impl Group {
    pub fn truncate(tables: &[TableName], restart_identity: bool) -> Self {
        Self {
            op: Op::Truncate,
            schema: String::new(),
            table: String::new(),
            key: Vec::new(),
            columns: Vec::new(),
            rows: 0,
            at: 0,
            bytes: 0,
            lengths: Vec::new(),
            spans: String::new(),
            tables: tables.iter().map(|table| (table.schema.clone(), table.name.clone())).collect(),
            restart_identity,
            partial: false,
            xid: None,
            first_key: String::new(),
        }
    }
}

/// Rows that one statement writes.
pub struct Rows {
    op: Op,
    /// Which of the mapping's columns they bring.
    columns: Vec<usize>,
    writes: Vec<Write>,
    keys: HashSet<Vec<u8>>,
}

impl Rows {
    /// An empty set for writes like this one.
    pub fn new(op: Op, write: &Write, mapped: &Mapped) -> Self {
        Self { op, columns: columns(write, mapped), writes: Vec::new(), keys: HashSet::new() }
    }

    /// Whether the write may join: of one kind, with the same columns, and no row twice in one statement. A changed key
    /// that is the old or the new key of another row there stays apart: the one must come behind the other.
    pub fn takes(&self, write: &Write, mapped: &Mapped) -> bool {
        let free = |row: &Tuple| !self.keys.contains(&key(row, mapped));
        let apart = match write {
            Write::Rekey { old, .. } => free(old),
            _ => true,
        };
        self.op == Op::of(write) && self.has_columns_of(write, mapped) && free(row(write)) && apart
    }

    pub fn has_columns_of(&self, write: &Write, mapped: &Mapped) -> bool {
        !matches!(self.op, Op::Patch | Op::Rekey) || self.columns == columns(write, mapped)
    }

    pub fn push(&mut self, write: Write, mapped: &Mapped) {
        if let Write::Rekey { old, .. } = &write {
            self.keys.insert(key(old, mapped));
        }
        self.keys.insert(key(row(&write), mapped));
        self.writes.push(write);
    }

    /// Adds a row whose key is known to be new.
    pub fn push_unique(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// Appends the literals to `values`.
    pub fn encode(self, mapped: &Mapped, values: &mut Vec<u8>) -> Group {
        let width = mapped.columns.iter().map(|(at, _)| at + 1).max().unwrap_or(0);
        let mut literals = Vec::new();
        if self.op == Op::Rekey {
            let old = self.writes.iter().map(|write| match write {
                Write::Rekey { old, .. } => old,
                other => row(other),
            });
            literals.extend(transpose(old, width, &mapped.key));
        }
        let places: Vec<usize> = self.columns.iter().map(|&column| mapped.columns[column].0).collect();
        literals.extend(transpose(self.writes.iter().map(row), width, &places));
        let first_key = self.writes.first().map(|write| readable(row(write), mapped)).unwrap_or_default();
        let lengths: Vec<usize> = literals.iter().map(Vec::len).collect();
        let spans = if self.writes.len() == 1 { spans(&lengths) } else { String::new() };
        let at = values.len();
        literals.iter().for_each(|literal| values.extend_from_slice(literal));
        Group {
            schema: mapped.table.schema.clone(),
            table: mapped.table.name.clone(),
            key: mapped.key_names.clone(),
            columns: self.columns.iter().map(|&column| mapped.columns[column].1.clone()).collect(),
            rows: self.writes.len() as u64,
            at,
            bytes: values.len() - at,
            lengths,
            spans,
            partial: self.op == Op::Rekey && self.columns.len() < mapped.columns.len(),
            first_key,
            ..Group { op: self.op, ..Group::truncate(&[], false) }
        }
    }
}

fn spans(lengths: &[usize]) -> String {
    let begins = lengths.iter().scan(1, |next, length| Some(std::mem::replace(next, *next + length)));
    let numbers: Vec<String> = begins.chain(lengths.iter().copied()).map(|number| number.to_string()).collect();
    format!("{{{}}}", numbers.join(","))
}

fn row(write: &Write) -> &Tuple {
    match write {
        Write::Upsert(row) | Write::Patch(row) | Write::Delete(row) | Write::Rekey { new: row, .. } => row,
    }
}

/// Which of the mapping's columns a write brings: all, those that came, or the key's.
fn columns(write: &Write, mapped: &Mapped) -> Vec<usize> {
    let all = 0..mapped.columns.len();
    match write {
        Write::Upsert(_) => all.collect(),
        Write::Delete(_) => all.filter(|&column| mapped.key.contains(&mapped.columns[column].0)).collect(),
        Write::Patch(row) | Write::Rekey { new: row, .. } => {
            let came: Vec<bool> = row.cells().map(|cell| cell != Cell::Unchanged).collect();
            all.filter(|&column| came.get(mapped.columns[column].0).copied().unwrap_or(false)).collect()
        }
    }
}

/// One array literal for each of the places, an element for each row.
fn transpose<'a>(rows: impl Iterator<Item = &'a Tuple>, width: usize, places: &[usize]) -> Vec<Vec<u8>> {
    // Which literal a column of the row goes to; a column that is not sent goes to none.
    let mut literal_of = vec![None; width];
    for (literal, &place) in places.iter().enumerate() {
        literal_of[place] = Some(literal);
    }
    let mut literals = vec![b"{".to_vec(); places.len()];
    for row in rows {
        for (cell, literal) in row.cells().zip(&literal_of) {
            let Some(literal) = literal else { continue };
            element(cell, &mut literals[*literal]);
        }
    }
    for literal in &mut literals {
        if literal.len() > 1 {
            literal.pop(); // the last comma
        }
        literal.push(b'}');
    }
    literals
}

fn element(cell: Cell<'_>, out: &mut Vec<u8>) {
    match cell {
        Cell::Text(text) => {
            out.push(b'"');
            let mut rest = text;
            while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
                out.extend_from_slice(&rest[..at]);
                out.extend_from_slice(&[b'\\', rest[at]]);
                rest = &rest[at + 1..];
            }
            out.extend_from_slice(rest);
            out.extend_from_slice(b"\",");
        }
        Cell::Null | Cell::Unchanged => out.extend_from_slice(b"NULL,"),
    }
}

/// A row's key for a message: `id=7`.
fn readable(row: &Tuple, mapped: &Mapped) -> String {
    let value = |&at: &usize| match row.cells().nth(at) {
        Some(Cell::Text(text)) => String::from_utf8_lossy(&text[..text.len().min(100)]).into_owned(),
        _ => "NULL".into(),
    };
    let pairs = mapped.key_names.iter().zip(mapped.key.iter().map(value));
    pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
}
