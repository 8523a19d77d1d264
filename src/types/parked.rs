//! What is set aside because the target refused it, as status, metrics and pages tell it.

use serde::{Deserialize, Serialize};

use super::TableName;

/// The parked rows of one table. The rows themselves lie in the target (`lockstep.parked`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedRows {
    pub schema: String,
    pub table: String,
    pub rows: u64,
    /// When the first of them was parked: seconds since the Unix epoch, by the target's clock.
    pub oldest: i64,
}

impl ParkedRows {
    /// For people and labels: `public.agents`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

/// What somebody wants of parked rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedWish {
    pub action: ParkedAction,
    pub choice: ParkedChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkedAction {
    /// At most so many, the oldest first.
    List { limit: u32 },
    /// Read again from the source and tried at once, not when it is due by itself.
    Retry,
    /// Given up: what the source holds is not written. Counted.
    Discard,
}

/// Which of them: all, those of one table, or one row of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParkedChoice {
    pub table: Option<TableName>,
    /// The values of the key's columns, as text.
    pub key: Vec<String>,
}

impl ParkedChoice {
    /// As people write it: `table` means the one in `public`.
    pub fn of(table: Option<&str>, key: Vec<String>) -> Self {
        let named = |text: &str| {
            let (schema, name) = text.split_once('.').unwrap_or(("public", text));
            TableName::new(schema, name)
        };
        Self { table: table.map(named), key }
    }
}
