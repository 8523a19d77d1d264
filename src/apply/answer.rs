//! What the target said to a batch, and what a refusal means to a person.

use serde::Deserialize;

use super::encode::{Group, Op};
use crate::pg::quote;
use crate::rest::{Class, sqlstate};
use crate::types::{Fault, Position, TableName};

#[derive(Debug)]
pub enum Answer {
    Applied {
        absent: u64,
    },
    Duplicate,
    Gap {
        at: Position,
    },
    /// A row to update is not there.
    Missing(Refusal),
    Refused(Refusal),
}

/// The function's answer as it travels.
#[derive(Debug, Deserialize)]
pub struct Wire {
    status: String,
    #[serde(default)]
    absent: u64,
    at: Option<(u64, u64)>,
    #[serde(flatten)]
    refusal: Refusal,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Refusal {
    /// Number of the group that was refused; -1 when it was none of them.
    group: Option<i64>,
    sqlstate: Option<String>,
    message: Option<String>,
    detail: Option<String>,
    constraint: Option<String>,
    column: Option<String>,
}

impl Wire {
    /// `Err` holds the cause when the same batch should be sent again.
    pub fn read(self) -> Result<Answer, String> {
        match self.status.as_str() {
            "applied" => Ok(Answer::Applied { absent: self.absent }),
            "duplicate" => Ok(Answer::Duplicate),
            "gap" => {
                let (major, minor) = self.at.unwrap_or_default();
                Ok(Answer::Gap { at: Position { major, minor } })
            }
            "missing" => Ok(Answer::Missing(self.refusal)),
            "refused" => Ok(Answer::Refused(self.refusal)),
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

    /// Whether a value or a constraint was the reason: in-order replay may pass.
    pub fn is_row(&self) -> bool {
        sqlstate(self.sqlstate()) == Class::Row
    }

    /// What somebody must do about it. The groups are those of the request that was refused.
    pub fn fault(&self, groups: &[Group]) -> Fault {
        let group = self.group.and_then(|at| usize::try_from(at).ok()).and_then(|at| groups.get(at));
        let Some(group) = group else {
            return Fault::stop(format!("the target refused the batch: {self}"), "change what the message names");
        };
        let table = TableName::new(&group.schema, &group.table);
        let name = quote::table(&table);
        let row = if group.rows == 1 { format!(", row {}", group.first_key) } else { String::new() };
        let what = match group.op {
            Op::Upsert => "write",
            Op::Patch | Op::Rekey => "update",
            Op::Delete => "delete",
            Op::Truncate => return Fault::stop(format!("the target refused to truncate: {self}"), TRUNCATE),
        };
        let cause = format!("the target refused to {what} {table}{row}: {self}");
        let fix = match self.sqlstate() {
            "42P01" => format!("create it in the target: lockstep schema --table {table}"),
            "42703" => format!("add the column in the target: alter table {name} add column …"),
            "42501" => format!("in the target: grant select, insert, update, delete on {name} to service_role"),
            "42P10" => format!("in the target: alter table {name} add primary key ({})", quoted(&group.key)),
            "23503" | "23505" | "23514" | "23P01" => format!(
                "in the target, change the row in the way or: alter table {name} drop constraint {}",
                quote::ident(self.constraint.as_deref().unwrap_or("…")),
            ),
            "23502" => format!(
                "in the target: alter table {name} alter column {} drop not null",
                quote::ident(self.column.as_deref().unwrap_or("…")),
            ),
            "LS001" => format!("the row was removed in the target; empty {name} there and copy it again"),
            _ => format!("make {name} in the target take this row; it is sent again every minute"),
        };
        Fault::stop(cause, fix)
    }
}

const TRUNCATE: &str = "in the target: grant truncate on the table to service_role, and drop foreign keys from tables \
                        that are not replicated";

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| quote::ident(name)).collect::<Vec<_>>().join(", ")
}
