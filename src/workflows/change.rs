//! The two sides of a change, as conditions and templates look at them.

use super::condition::{Field, Wrong};
use super::row::Row;

/// The new and the old row. An INSERT has no old one, a DELETE no new one.
#[derive(Clone, Debug, Default)]
pub struct Sides {
    pub new: Option<Row>,
    pub old: Option<Row>,
    /// An UPDATE: whether or not its old row was told.
    update: bool,
    /// Columns that were too large to be kept, as `new.body`.
    pub left_out: Vec<String>,
}

impl Sides {
    /// From JSON objects; `None` when one of them is none.
    pub fn parse(new: Option<&str>, old: Option<&str>) -> Option<Self> {
        let read = |json: Option<&str>| match json {
            Some(json) => Row::parse(json).map(Some),
            None => Some(None),
        };
        let update = new.is_some() && old.is_some();
        Some(Self { new: read(new)?, old: read(old)?, update, left_out: Vec::new() })
    }

    pub fn with(mut self, update: bool, left_out: Vec<String>) -> Self {
        (self.update, self.left_out) = (update, left_out);
        self
    }

    pub fn is_update(&self) -> bool {
        self.update
    }

    /// The JSON text of a field, or why there is none.
    pub fn get(&self, field: &Field) -> Result<&str, Wrong> {
        let row = if field.old { &self.old } else { &self.new };
        let name = field.name();
        let why = match row {
            Some(row) => match row.get(&field.column) {
                Some(value) => return Ok(value),
                None if self.left_out.contains(&name) => "is too large to be kept with a run",
                None if field.old => {
                    "is not told by the stream: set the table's replica identity to full (alter table … replica \
                     identity full), or correct the name"
                }
                None => {
                    "is not in the change: there is no such column, or it holds a large value that the UPDATE left \
                     alone"
                }
            },
            None if field.old && self.update => {
                "is not told by the stream: set the table's replica identity to full (alter table … replica identity \
                 full)"
            }
            None if field.old => "is not there: an inserted row has no old one",
            None => "is not there: a deleted row has no new one",
        };
        Err(Wrong::new(name, why))
    }
}
