//! What the target says about the tables, and what somebody must do about it: the statement, ready to be pasted.

use serde::Deserialize;

use crate::config::Existing;
use crate::pg::quote;
use crate::types::{Fault, Table};

/// What the target says about one table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Finding {
    pub schema: String,
    pub name: String,
    pub exists: bool,
    missing_rights: Vec<String>,
    missing_columns: Vec<String>,
    generated_columns: Vec<String>,
    required_columns: Vec<String>,
    has_key: bool,
    /// It has a primary key, of other columns.
    other_key: bool,
    empty: bool,
    /// It was found fit before: what it holds may be ours.
    pub begun: bool,
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

/// The first kind of thing that is not right with the tables over there, for all tables that have it.
pub fn judge(tables: &[Table], findings: &[Finding], existing: Existing) -> Result<(), Fault> {
    type Check = fn(&Table, &Finding) -> Option<(String, String)>;
    let mut checks: Vec<Check> = vec![missing, columns, key, rights, generated, required];
    if existing == Existing::Refuse {
        checks.push(occupied);
    }
    for check in checks {
        let found: Vec<(String, String)> = tables.iter().zip(findings).filter_map(|(t, f)| check(t, f)).collect();
        if found.is_empty() {
            continue;
        }
        let (causes, fixes): (Vec<String>, Vec<String>) = found.into_iter().unzip();
        return Err(Fault::stop(few(&causes, "; "), few(&fixes, "\n       ")));
    }
    Ok(())
}

/// At most ten of them in one line.
pub(super) fn few(all: &[String], between: &str) -> String {
    let more = all.len().saturating_sub(10);
    let line = all[..all.len() - more].join(between);
    if more > 0 { format!("{line}{between}and {more} more") } else { line }
}

fn missing(table: &Table, finding: &Finding) -> Option<(String, String)> {
    let fix = "run in Supabase's SQL editor what `lockstep schema` prints for it, or leave it out in lockstep.toml";
    (!finding.exists).then(|| {
        let name = table.name.to_string();
        let (print, exclude) = (shell(&name), toml::Value::from(vec![name.clone()]));
        (
            format!("table {name} is missing in Supabase"),
            format!("{fix}: lockstep schema --table {print}; or: tables.exclude = {exclude}"),
        )
    })
}

fn columns(table: &Table, finding: &Finding) -> Option<(String, String)> {
    if finding.missing_columns.is_empty() {
        return None;
    }
    let name = quote::table(&table.name);
    let type_of = |column: &String| table.columns.iter().find(|c| &c.name == column).map_or("text", |c| &c.type_name);
    let adds: Vec<String> = finding
        .missing_columns
        .iter()
        .map(|column| format!("add column {} {}", quote::ident(column), type_of(column)))
        .collect();
    let kept = table.columns.iter().map(|column| &column.name).filter(|name| !finding.missing_columns.contains(name));
    let kept: toml::Value = kept.cloned().collect::<Vec<_>>().into();
    let place = toml::Value::from(table.name.to_string());
    Some((
        format!("{} lacks columns in Supabase: {}", table.name, finding.missing_columns.join(", ")),
        format!(
            "in Supabase: alter table {name} {};\n       or leave them out, at the top of lockstep.toml: \
             table.{place}.columns = {kept}",
            adds.join(", "),
        ),
    ))
}

fn key(table: &Table, finding: &Finding) -> Option<(String, String)> {
    let key: Vec<String> = table.key.iter().map(|column| quote::ident(column)).collect();
    let key = key.join(", ");
    let add = if finding.other_key { "unique" } else { "primary key" };
    let fix = format!("in Supabase: alter table {} add {add} ({key});", quote::table(&table.name));
    (!finding.has_key).then(|| (format!("{} has no unique key ({key}) in Supabase", table.name), fix))
}

fn rights(table: &Table, finding: &Finding) -> Option<(String, String)> {
    let rights = finding.missing_rights.join(", ");
    let fix = format!("in Supabase: grant {rights} on {} to service_role;", quote::table(&table.name));
    (!rights.is_empty()).then(|| (format!("service_role may not {rights} on {} in Supabase", table.name), fix))
}

fn generated(table: &Table, finding: &Finding) -> Option<(String, String)> {
    let columns = finding.generated_columns.join(", ");
    let drops = each(&finding.generated_columns, "drop expression");
    let fix = format!("in Supabase: alter table {} {drops};", quote::table(&table.name));
    let cause = || format!("{} computes columns in Supabase that are written at the source: {columns}", table.name);
    (!columns.is_empty()).then(|| (cause(), fix))
}

/// `alter column a drop …, alter column b drop …`
fn each(columns: &[String], what: &str) -> String {
    let all: Vec<String> = columns.iter().map(|name| format!("alter column {} {what}", quote::ident(name))).collect();
    all.join(", ")
}

fn required(table: &Table, finding: &Finding) -> Option<(String, String)> {
    let name = quote::table(&table.name);
    let drops = each(&finding.required_columns, "drop not null");
    let columns = finding.required_columns.join(", ");
    let cause = format!("{} demands values in Supabase that the source does not send: {columns}", table.name);
    (!drops.is_empty()).then(|| (cause, format!("in Supabase: alter table {name} {drops};")))
}

fn occupied(table: &Table, finding: &Finding) -> Option<(String, String)> {
    (!finding.begun && !finding.empty).then(|| {
        (
            format!("{} holds rows in Supabase that Lockstep did not write", table.name),
            format!(
                "in Supabase: truncate {};\n       or, to copy over rows with the same key and keep the others: \
                 LOCKSTEP_EXISTING=keep (copy.existing in lockstep.toml)",
                quote::table(&table.name)
            ),
        )
    })
}

/// An argument as a shell takes it.
fn shell(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text.bytes().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
