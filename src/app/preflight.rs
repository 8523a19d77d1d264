//! Looks at both sides before the route starts, and says in one fault what stands in the way and how to mend it.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::json;

use super::SourceUrl;
use crate::apply::Shape;
use crate::config::{Existing, ProjectUrl, Settings};
use crate::pg::catalog::{self, Selection};
use crate::pg::{self, Client, quote};
use crate::rest::{self, Body};
use crate::types::{ApiKey, Fault, Position, Table, TableName};

/// The version of our SQL that this program speaks with.
const INSTALLED: i64 = 1;

/// The function's answer: see `lockstep.hello` in `sql/supabase/functions.sql`.
#[derive(Debug, Deserialize)]
pub struct Hello {
    checkpoint: (u64, u64),
    pub source: serde_json::Value,
    /// The target may leave triggers and foreign keys to the source.
    pub suppress: bool,
    pub tables: Vec<Finding>,
}

impl Hello {
    pub fn checkpoint(&self) -> Position {
        let (major, minor) = self.checkpoint;
        Position { major, minor }
    }
}

/// What the target says about one table.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Finding {
    pub schema: String,
    pub name: String,
    exists: bool,
    missing_rights: Vec<String>,
    missing_columns: Vec<String>,
    generated_columns: Vec<String>,
    required_columns: Vec<String>,
    has_key: bool,
    /// It has a primary key, of other columns.
    other_key: bool,
    empty: bool,
    pub copied: bool,
    pub cursor: Option<Vec<String>>,
    pub rows: u64,
}

pub fn source_url(settings: &Settings) -> Result<SourceUrl, Fault> {
    use secrecy::ExposeSecret;
    let url = settings.source.url().map_err(|problem| Fault::stop(problem.to_string(), "set it in the environment or in .env"))?;
    pg::Url::parse(url.expose_secret()).map_err(|cause| Fault::stop(format!("DATABASE_URL: {cause}"), "correct it"))
}

pub fn endpoint(settings: &Settings) -> Result<(&ProjectUrl, &ApiKey), Fault> {
    settings.supabase.endpoint().map_err(|problem| Fault::stop(problem.to_string(), "set it in the environment or in .env"))
}

/// A client for the target, by the settings.
pub fn client(settings: &Settings) -> Result<rest::Client, Fault> {
    let (url, key) = endpoint(settings)?;
    let ca_pem = settings.supabase.ca_file.as_ref().map(|path| {
        std::fs::read(path).map_err(|error| {
            Fault::stop(format!("cannot read {}: {error}", path.display()), "correct [supabase] ca_file")
        })
    });
    rest::Client::new(&rest::Settings {
        url: url.as_url().to_string(),
        key: key.clone(),
        ca_pem: ca_pem.transpose()?,
        timeout: settings.supabase.timeout,
    })
}

/// The tables to replicate, with the columns that the settings choose.
pub async fn tables(source: &Client, settings: &Settings) -> Result<Vec<Table>, Fault> {
    let selection = Selection {
        schemas: settings.tables.schemas.clone(),
        include: settings.tables.include.clone(),
        exclude: settings.tables.exclude.clone(),
    };
    let survey = catalog::survey(source, &selection).await?;
    for left_out in &survey.left_out {
        tracing::warn!("{left_out}, so it is not replicated");
    }
    let mut tables = survey.tables;
    for (name, one) in &settings.table {
        let table = tables.iter_mut().find(|table| table.name.to_string() == *name).ok_or_else(|| {
            let fix = "write it as schema.table, and let [tables] choose it";
            Fault::stop(format!("[table.\"{name}\"] is about a table that is not replicated"), fix)
        })?;
        choose(table, &one.columns)?;
    }
    if tables.is_empty() {
        let schemas = settings.tables.schemas.join(", ");
        let fix = "choose others with [tables] schemas or include, or: alter table … add primary key (…)";
        return Err(Fault::stop(format!("no table with a primary key is chosen in {schemas}"), fix));
    }
    Ok(tables)
}

fn choose(table: &mut Table, columns: &[String]) -> Result<(), Fault> {
    if columns.is_empty() {
        return Ok(());
    }
    let place = format!("[table.\"{}\"] columns", table.name);
    let has = |name: &String| table.columns.iter().any(|column| &column.name == name);
    if let Some(unknown) = columns.iter().find(|name| !has(name)) {
        let all: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
        return Err(Fault::stop(
            format!("{place}: there is no column `{unknown}`"),
            format!("choose of {}", all.join(", ")),
        ));
    }
    if let Some(key) = table.key.iter().find(|key| !columns.contains(key)) {
        return Err(Fault::stop(format!("{place} leaves out `{key}`, which is in the primary key"), "add it"));
    }
    table.columns.retain(|column| columns.contains(&column.name));
    Ok(())
}

pub async fn hello(
    client: &rest::Client,
    route: &str,
    source: serde_json::Value,
    tables: &[Table],
) -> Result<Hello, Fault> {
    let tables: Vec<_> = tables
        .iter()
        .map(|table| {
            let columns: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
            json!({"schema": table.name.schema, "name": table.name.name, "columns": columns, "key": table.key})
        })
        .collect();
    let request = json!({"request": {"route": route, "source": source, "tables": tables}});
    let answer: serde_json::Value = client
        .rpc("lockstep_hello", Body::Json(request))
        .await
        .map_err(|failure| crate::apply::request_fault(&failure, 0))?;
    // Its version comes first: the rest of another version's answer may look different.
    if let Some(fault) = other_version(answer["version"].as_i64().unwrap_or(0)) {
        return Err(fault);
    }
    serde_json::from_value(answer)
        .map_err(|error| Fault::stop(format!("lockstep_hello in Supabase answers what is not ours: {error}"), INSTALL))
}

const INSTALL: &str = "run in Supabase's SQL editor what `lockstep setup supabase --print` prints";

fn other_version(installed: i64) -> Option<Fault> {
    let (which, fix) = match installed.cmp(&INSTALLED) {
        Ordering::Equal => return None,
        Ordering::Less => ("older than", INSTALL),
        Ordering::Greater => ("newer than", "install the lockstep that installed it, or a newer one"),
    };
    let cause = format!("our SQL in Supabase has version {installed}, {which} the {INSTALLED} that this program needs");
    Some(Fault::stop(cause, fix))
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
fn few(all: &[String], between: &str) -> String {
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
    (!rights.is_empty()).then(|| (format!("the key's role may not {rights} {} in Supabase", table.name), fix))
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
    let untouched = !finding.copied && finding.cursor.is_none();
    (untouched && !finding.empty).then(|| {
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

/// What apply must know of each table, by oid.
pub fn shapes(tables: &[Table], settings: &Settings) -> HashMap<u32, Shape> {
    let shape = |table: &Table| Shape {
        name: table.name.clone(),
        columns: table.columns.iter().map(|column| column.name.clone()).collect(),
        key: table.key.clone(),
        chosen: settings.table.get(&table.name.to_string()).is_some_and(|one| !one.columns.is_empty()),
    };
    tables.iter().map(|table| (table.oid, shape(table))).collect()
}

/// Names of the tables, for the publication.
pub fn names(tables: &[Table]) -> Vec<TableName> {
    tables.iter().map(|table| table.name.clone()).collect()
}
