//! What the target says about the tables, and what somebody must do about it: the statement, ready to be pasted.

use serde::Deserialize;

use crate::config::Existing;
use crate::pg::quote;
use crate::remedy::{self, shell};
use crate::types::{Fault, Table};

/// What the target says about one table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Finding {
    pub schema: String,
    pub name: String,
    pub(crate) exists: bool,
    pub(crate) missing_rights: Vec<String>,
    pub(crate) missing_columns: Vec<String>,
    pub(crate) generated_columns: Vec<String>,
    pub(crate) required_columns: Vec<String>,
    pub(crate) has_key: bool,
    /// It has a primary key, of other columns.
    pub(crate) other_key: bool,
    pub(crate) empty: bool,
    /// It was found fit before: what it holds may be ours.
    pub(crate) begun: bool,
    /// It is set aside, and why.
    pub parked: Option<String>,
    pub copied: bool,
    pub cursor: Option<Vec<String>>,
    pub rows: u64,
}

impl Finding {
    /// Its copy has not begun, and it holds rows that are not a stranger's: the stream brought some before a kill, or a
    /// recovery has put all of them in doubt.
    pub fn is_in_doubt(&self) -> bool {
        self.begun && !self.copied && !self.empty && self.cursor.is_none()
    }
}

/// What is wrong with a table over there, and the way to mend it.
pub(crate) struct Complaint {
    pub cause: String,
    /// Statements for the target; none where it takes more than that.
    pub sql: Vec<String>,
    /// What else can be done, or is to be done where there are no statements.
    pub or: String,
}

impl Complaint {
    fn fix(&self) -> String {
        match self.sql.as_slice() {
            [] => self.or.clone(),
            sql => format!("in Supabase: {};{}", sql.join("; "), self.or),
        }
    }
}

/// The first kind of thing that is not right with the tables over there, for all tables that have it.
pub fn judge(tables: &[Table], findings: &[Finding], existing: Existing) -> Result<(), Fault> {
    type Check = fn(&Table, &Finding) -> Option<Complaint>;
    let mut checks: Vec<Check> = vec![missing, columns, key, rights, generated, required];
    if existing == Existing::Refuse {
        checks.push(occupied);
    }
    for check in checks {
        let found: Vec<Complaint> = tables.iter().zip(findings).filter_map(|(t, f)| check(t, f)).collect();
        if found.is_empty() {
            continue;
        }
        let (causes, fixes): (Vec<String>, Vec<String>) = found.into_iter().map(|c| (c.cause.clone(), c.fix())).unzip();
        return Err(Fault::stop(few(&causes, "; "), few(&fixes, "\n       ")));
    }
    Ok(())
}

/// Why a table cannot take part, by its shape over there, and the statement that mends it.
pub fn unfit(table: &Table, finding: &Finding) -> Option<(String, String)> {
    let complaint = [missing, columns, key, generated, required].into_iter().find_map(|check| check(table, finding))?;
    let fix = complaint.fix();
    Some((complaint.cause, fix))
}

/// At most ten of them in one line.
pub(crate) fn few(all: &[String], between: &str) -> String {
    let more = all.len().saturating_sub(10);
    let line = all[..all.len() - more].join(between);
    if more > 0 { format!("{line}{between}and {more} more") } else { line }
}

pub(crate) fn missing(table: &Table, finding: &Finding) -> Option<Complaint> {
    let fix = "run in Supabase's SQL editor what `lockstep schema` prints for it, or leave it out in lockstep.toml";
    (!finding.exists).then(|| {
        let name = table.name.to_string();
        let (print, exclude) = (shell(&name), toml::Value::from(vec![name.clone()]));
        Complaint {
            cause: format!("table {name} is missing in Supabase"),
            sql: Vec::new(),
            or: format!("{fix}: lockstep schema --table {print}; or: tables.exclude = {exclude}"),
        }
    })
}

pub(crate) fn columns(table: &Table, finding: &Finding) -> Option<Complaint> {
    if finding.missing_columns.is_empty() {
        return None;
    }
    let type_of = |column: &String| table.columns.iter().find(|c| &c.name == column).map_or("text", |c| &c.type_name);
    let adds: Vec<(&str, &str)> =
        finding.missing_columns.iter().map(|column| (column.as_str(), type_of(column))).collect();
    let kept = table.columns.iter().map(|column| &column.name).filter(|name| !finding.missing_columns.contains(name));
    let kept: toml::Value = kept.cloned().collect::<Vec<_>>().into();
    let place = toml::Value::from(table.name.to_string());
    Some(Complaint {
        cause: format!("{} lacks columns in Supabase: {}", table.name, finding.missing_columns.join(", ")),
        sql: vec![remedy::add_columns(&table.name, &adds)],
        or: format!("\n       or leave them out, at the top of lockstep.toml: table.{place}.columns = {kept}"),
    })
}

pub(crate) fn key(table: &Table, finding: &Finding) -> Option<Complaint> {
    let key = remedy::idents(&table.key);
    let add = if finding.other_key { "unique" } else { "primary key" };
    (!finding.has_key).then(|| {
        let cause = format!("{} has no unique key ({key}) in Supabase", table.name);
        mended(cause, remedy::add_key(&table.name, add, &table.key))
    })
}

pub(crate) fn rights(table: &Table, finding: &Finding) -> Option<Complaint> {
    let rights = finding.missing_rights.join(", ");
    let cause = || format!("service_role may not {rights} on {} in Supabase", table.name);
    let grant = || remedy::grant(&finding.missing_rights, &table.name, "service_role");
    (!rights.is_empty()).then(|| mended(cause(), grant()))
}

pub(crate) fn generated(table: &Table, finding: &Finding) -> Option<Complaint> {
    let columns = finding.generated_columns.join(", ");
    let drops = || remedy::alter_columns(&table.name, &finding.generated_columns, "drop expression");
    let cause = || format!("{} computes columns in Supabase that are written at the source: {columns}", table.name);
    (!columns.is_empty()).then(|| mended(cause(), drops()))
}

pub(crate) fn required(table: &Table, finding: &Finding) -> Option<Complaint> {
    let drops = || remedy::alter_columns(&table.name, &finding.required_columns, "drop not null");
    let columns = finding.required_columns.join(", ");
    let cause = || format!("{} demands values in Supabase that the source does not send: {columns}", table.name);
    (!columns.is_empty()).then(|| mended(cause(), drops()))
}

pub(crate) fn occupied(table: &Table, finding: &Finding) -> Option<Complaint> {
    (!finding.begun && !finding.empty).then(|| Complaint {
        cause: format!("{} holds rows in Supabase that Lockstep did not write", table.name),
        sql: vec![format!("truncate {}", quote::table(&table.name))],
        or: "\n       or, to copy over rows with the same key and keep the others: \
             LOCKSTEP_EXISTING=keep (copy.existing in lockstep.toml)"
            .into(),
    })
}

fn mended(cause: String, statement: String) -> Complaint {
    Complaint { cause, sql: vec![statement], or: String::new() }
}
