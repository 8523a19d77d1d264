//! Looks at both sides before the route starts, and says in one fault what stands in the way and how to mend it.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

use serde::Deserialize;
use serde_json::json;

use super::SourceUrl;
use super::judge::{Finding, few};
use crate::apply::Shape;
use crate::config::{ProjectUrl, Settings};
use crate::pg::catalog::{self, Selection};
use crate::pg::{self, Client, quote};
use crate::rest::{self, Body};
use crate::types::{ApiKey, Fault, Lsn, Position, Table, TableName};

/// The version of our SQL that this program speaks with.
const INSTALLED: i64 = 1;

/// The function's answer: see `lockstep.hello` in `sql/supabase/functions.sql`.
#[derive(Debug, Deserialize)]
pub struct Hello {
    pub checkpoint: (u64, u64),
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

pub fn source_url(settings: &Settings) -> Result<SourceUrl, Fault> {
    use secrecy::ExposeSecret;
    let url = settings
        .source
        .url()
        .map_err(|problem| Fault::stop(problem.to_string(), "set it in the environment or in .env"))?;
    pg::Url::parse(url.expose_secret()).map_err(|cause| Fault::stop(format!("DATABASE_URL: {cause}"), "correct it"))
}

pub fn endpoint(settings: &Settings) -> Result<(&ProjectUrl, &ApiKey), Fault> {
    settings
        .supabase
        .endpoint()
        .map_err(|problem| Fault::stop(problem.to_string(), "set it in the environment or in .env"))
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
    readable(source, &survey.tables).await?;
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

const UNREADABLE: &str = "select n.nspname::text, c.relname::text, \
     has_schema_privilege(n.oid, 'usage'), current_user::text \
     from pg_class c join pg_namespace n on n.oid = c.relnamespace \
     where c.oid = any($1::oid[]) and not (has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')) \
     order by 1, 2";

/// The first copy reads the tables, which a role that may replicate cannot do by that right alone.
async fn readable(source: &Client, tables: &[Table]) -> Result<(), Fault> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let rows = source.query(UNREADABLE, &[&oids]).await.map_err(|error| pg::client::fault(&error))?;
    let (mut names, mut quoted, mut schemas, mut role) = (Vec::new(), Vec::new(), BTreeSet::new(), String::new());
    for row in &rows {
        let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        quoted.push(quote::table(&name));
        names.push(name.to_string());
        if !row.get::<_, bool>(2) {
            schemas.insert(quote::ident(&name.schema));
        }
        role = row.get(3);
    }
    if rows.is_empty() {
        return Ok(());
    }
    let grantee = quote::ident(&role);
    let usage: String = schemas.iter().map(|name| format!("grant usage on schema {name} to {grantee}; ")).collect();
    Err(Fault::stop(
        format!("role {role} may not read {} at the source", few(&names, ", ")),
        format!("at the source: {usage}grant select on {} to {grantee};", quoted.join(", ")),
    ))
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

/// What the first calls of a start say.
#[derive(Clone)]
pub struct Greeting<'a> {
    pub route: &'a str,
    /// Which source it is; empty while that is not known.
    pub source: serde_json::Value,
    /// The tables to look at.
    pub tables: &'a [Table],
    /// Tables that were judged fit.
    pub begin: &'a [TableName],
    /// The stream begins anew here, and no table counts as copied any more.
    pub restart: Option<Lsn>,
}

pub async fn hello(client: &rest::Client, greeting: &Greeting<'_>) -> Result<Hello, Fault> {
    let Greeting { route, source, tables, begin, restart } = greeting;
    let tables: Vec<_> = tables
        .iter()
        .map(|table| {
            let columns: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
            json!({"schema": table.name.schema, "name": table.name.name, "columns": columns, "key": table.key})
        })
        .collect();
    let begin: Vec<_> = begin.iter().map(|table| json!({"schema": table.schema, "name": table.name})).collect();
    let mut request = json!({"route": route, "source": source, "tables": tables, "begin": begin});
    if let Some(restart) = restart {
        request["restart"] = json!([restart.0, 0]);
    }
    let request = json!({"request": request});
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
