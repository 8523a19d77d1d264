//! A table that a route replicates, as the settings and the source's catalogs have it.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    /// Reads `schema.name`; a bare name means schema `public`.
    pub fn parse(text: &str) -> Self {
        let (schema, name) = text.split_once('.').unwrap_or(("public", text));
        Self::new(schema, name)
    }
}

/// For people: `public.agents`. SQL takes `pg::quote::table` instead.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub oid: u32,
    pub name: TableName,
    /// The columns that are replicated, in the source's order; generated ones are left out.
    pub columns: Vec<Column>,
    /// Names of the primary key's columns, in the key's order.
    pub key: Vec<String>,
    /// The planner's estimate of its rows, for progress; 0 when unknown.
    pub estimated_rows: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// As `format_type` spells it without a modifier, safe to use in SQL.
    pub type_name: String,
}
