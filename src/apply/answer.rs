//! What the target said to a batch, and what a refusal means to a person.

use serde::Deserialize;

use super::encode::{Group, Op};
use crate::pg::quote;
use crate::rest::{Class, sqlstate};
use crate::types::{Fault, ParkedRows, Position, TableName};

#[derive(Debug)]
pub enum Answer {
    Applied {
        absent: u64,
        /// What is parked now, where anything is or was.
        parked: Option<Vec<ParkedRows>>,
    },
    Duplicate,
    Gap {
        at: Position,
    },
    /// Rows to update are not there, or stale: they must be read again.
    Missing(Refusal),
    Refused(Refusal),
    /// So many rows of a table were refused that it is not about single rows.
    Overflow(Refusal),
    /// What the request refers to does not lie in the target (any more).
    Unstaged,
    /// What was staged took longer than the target allows.
    Late,
}

/// The function's answer as it travels.
#[derive(Debug, Deserialize)]
pub struct Wire {
    status: String,
    #[serde(default)]
    absent: u64,
    parked: Option<Vec<ParkedRows>>,
    at: Option<(u64, u64)>,
    #[serde(flatten)]
    refusal: Refusal,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Refusal {
    /// Number of the group that was refused; -1 when it was none of them.
    group: Option<i64>,
    /// Rows that must come whole, the first thousand of them.
    pub lost: Vec<Lost>,
    sqlstate: Option<String>,
    message: Option<String>,
    detail: Option<String>,
    constraint: Option<String>,
    column: Option<String>,
    /// The table whose constraint it was: for a foreign key not always the one that was written.
    schema: Option<String>,
    table: Option<String>,
}

/// Rows of one group that the target has not, or only in a stale form.
#[derive(Clone, Debug, Deserialize)]
pub struct Lost {
    schema: String,
    table: String,
    pub keys: Vec<Vec<String>>,
}

impl Lost {
    pub fn table(&self) -> TableName {
        TableName::new(&self.schema, &self.table)
    }
}

impl Wire {
    /// `Err` holds the cause when the same batch should be sent again.
    pub fn read(self) -> Result<Answer, String> {
        match self.status.as_str() {
            "applied" => Ok(Answer::Applied { absent: self.absent, parked: self.parked }),
            "duplicate" => Ok(Answer::Duplicate),
            "gap" => {
                let (major, minor) = self.at.unwrap_or_default();
                Ok(Answer::Gap { at: Position { major, minor } })
            }
            "missing" => Ok(Answer::Missing(self.refusal)),
            "refused" => Ok(Answer::Refused(self.refusal)),
            "unstaged" => Ok(Answer::Unstaged),
            "overflow" => Ok(Answer::Overflow(self.refusal)),
            "retry" => Err(self.refusal.to_string()),
            other => Err(format!("an answer of unknown status `{other}`")),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.message.as_deref().unwrap_or("refused without a reason"))?;
        if let Some(detail) = self.detail.as_deref().filter(|detail| !detail.is_empty()) {
            write!(f, "; {detail}")?;
        }
        write!(f, " (SQLSTATE {})", self.sqlstate())
    }
}

impl Refusal {
    fn sqlstate(&self) -> &str {
        self.sqlstate.as_deref().unwrap_or("XX000")
    }

    /// Which group of the request it was.
    pub fn group(&self) -> Option<usize> {
        usize::try_from(self.group?).ok()
    }

    /// Whether a value or a constraint was the reason: in-order replay may pass.
    pub fn is_row(&self) -> bool {
        sqlstate(self.sqlstate()) == Class::Row
    }

    /// Whether the two sides differ in shape: a table, a column, a key, a type. Rights are another matter.
    fn is_shape(&self) -> bool {
        let code = self.sqlstate();
        code.starts_with("42") && code != "42501" && !self.is_row()
    }

    /// What somebody must do about it. The groups are those of the request that was refused. With `park`, a table whose
    /// shape is the reason is set aside instead, and so is one with too many refused rows.
    pub fn fault(&self, groups: &[Group], park: bool) -> Fault {
        let group = self.group().and_then(|at| groups.get(at));
        let owner = match (given(&self.schema), given(&self.table)) {
            (Some(schema), Some(table)) => Some(TableName::new(schema, table)),
            _ => None,
        };
        let table = group.map(|group| TableName::new(&group.schema, &group.table)).or_else(|| owner.clone());
        let Some(table) = table else {
            return Fault::stop(format!("the target refused the batch: {self}"), "change what the message names");
        };
        let cause = match group {
            Some(group) if group.op == Op::Truncate => return self.truncate(group),
            Some(group) => format!("the target refused to {} {table}{}: {self}", verb(group.op), row(group)),
            None => format!("the target refused the batch: {self}"), // a constraint that is checked at its end
        };
        let name = quote::table(&table);
        let held = quote::table(owner.as_ref().unwrap_or(&table));
        let key = group.map(|group| group.key.as_slice()).unwrap_or_default();
        let constraint = quote::ident(given(&self.constraint).unwrap_or("…"));
        // Postgres names no column when it refuses to change an identity: then it is the key.
        let column = given(&self.column).or(key.first().map(String::as_str));
        let column = quote::ident(column.unwrap_or("…"));
        let fix = match self.sqlstate() {
            "42P01" => format!("run in Supabase's SQL editor what this prints: lockstep schema --table {table}"),
            "42703" => format!("in Supabase: alter table {name} add column …"),
            "42501" => {
                format!("in Supabase: grant select, insert, update, delete, truncate on {name} to service_role;")
            }
            "42P10" => format!("in Supabase: alter table {name} add primary key ({});", quoted(key)),
            "23503" => format!("in Supabase: alter table {held} drop constraint {constraint};\n       or {SUPPRESS}"),
            "23505" | "23514" | "23P01" => {
                format!("in Supabase: change the row in the way, or: alter table {held} drop constraint {constraint};")
            }
            "23502" => format!("in Supabase: alter table {name} alter column {column} drop not null;"),
            "428C9" => format!("in Supabase: alter table {name} alter column {column} set generated by default;"),
            _ => format!("make {name} in Supabase take this row; it is sent again every minute"),
        };
        if park && self.is_shape() {
            return Fault::Park { table, cause: format!("{cause}; {fix}") };
        }
        Fault::stop(cause, fix)
    }

    /// Too many rows of one table were refused to set each aside.
    pub fn overflow(&self) -> Fault {
        let table = TableName::new(given(&self.schema).unwrap_or("?"), given(&self.table).unwrap_or("?"));
        let name = quote::table(&table);
        let many = self.message.as_deref().unwrap_or("too many rows were refused");
        let cause = format!("{many}; make {name} in Supabase take these rows, or raise [apply] park_rows");
        Fault::Park { table, cause }
    }

    fn truncate(&self, group: &Group) -> Fault {
        let names: Vec<String> =
            group.tables.iter().map(|(schema, name)| quote::table(&TableName::new(schema, name))).collect();
        let names = names.join(", ");
        Fault::stop(
            format!("the target refused to truncate {names}: {self}"),
            match self.sqlstate() {
                "42501" => format!("in Supabase: grant truncate on {names} to service_role;"),
                // A table that is not replicated refers to one of them.
                "0A000" => "in Supabase: drop the foreign key that the message names".to_owned(),
                _ => "change what the message names".to_owned(),
            },
        )
    }
}

/// With this right, foreign keys and triggers are left to the source, which honoured them.
const SUPPRESS: &str = "let the owner of our functions leave foreign keys to the source, as a superuser there \
                        (before PostgreSQL 15: alter role postgres superuser;): \
                        grant set on parameter session_replication_role to postgres;";

fn verb(op: Op) -> &'static str {
    match op {
        Op::Upsert => "write",
        Op::Patch | Op::Rekey => "update",
        Op::Delete => "delete",
        Op::Truncate => "truncate",
    }
}

/// Which row, where it was one alone.
fn row(group: &Group) -> String {
    if group.rows == 1 { format!(", row {}", group.first_key) } else { String::new() }
}

/// Diagnostics that do not apply come as empty text.
fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| quote::ident(name)).collect::<Vec<_>>().join(", ")
}
