//! Looks at both sides before the route starts, and says in one fault what stands in the way and how to mend it.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

use serde::Deserialize;
use serde_json::json;

use super::SourceUrl;
use super::capturing::{self, Kind};
use super::judge::{Finding, few};
use super::tables::Aside;
use super::way::Way;
use crate::apply::Shape;
use crate::capture::slot::restricted;
use crate::config::{self, Existing, ProjectUrl, Settings};
use crate::ledger::journal;
use crate::pg::catalog::{self, Selection, Survey};
use crate::pg::{self, Client};
use crate::reconcile::{self, Reading};
use crate::remedy::{self, INSTALL};
use crate::rest::{self, Body};
use crate::types::{ApiKey, Fault, Lsn, ParkedRows, Position, Table, TableName};

/// The version of our SQL that this program speaks with.
const INSTALLED: i64 = 3;

/// The function's answer: see `lockstep.hello` in `sql/supabase/functions.sql`.
#[derive(Debug, Deserialize)]
pub struct Hello {
    pub checkpoint: (u64, u64),
    pub source: serde_json::Value,
    /// The target may leave triggers and foreign keys to the source.
    pub suppress: bool,
    pub tables: Vec<Finding>,
    /// Rows that were set aside.
    pub parked: Vec<ParkedRows>,
}

impl Hello {
    /// Only what it says of some of the tables that were asked about.
    pub fn of(mut self, asked: &[Table], some: &[Table]) -> Self {
        let wanted = |table: &Table| some.iter().any(|one| one.oid == table.oid);
        self.tables =
            asked.iter().zip(self.tables).filter(|(table, _)| wanted(table)).map(|(_, found)| found).collect();
        self
    }

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
    rest::Client::new(&rest::Settings {
        url: url.as_url().to_string(),
        key: key.clone(),
        ca_pem: settings.supabase.ca_pem()?,
        timeout: settings.supabase.timeout,
    })
}

/// The tables to replicate, with the columns that the settings and the publication choose.
pub async fn tables(source: &Client, settings: &Settings) -> Result<Vec<Table>, Fault> {
    let survey = survey(source, settings).await?;
    readable(source, &survey.tables).await?;
    for left_out in &survey.left_out {
        tracing::warn!("{left_out}, so it is not replicated");
    }
    let mut tables = survey.tables;
    for (name, one) in &settings.table {
        let table = tables.iter_mut().find(|table| table.name.to_string() == *name);
        one.choose(table.ok_or_else(|| config::not_chosen(name))?)?;
    }
    let published = match capturing::choose(settings, source).await? {
        Kind::Wal => restricted::read(source, &settings.source.publication).await?,
        Kind::Journal => Vec::new(), // whatever some publication shows
    };
    for restricted in published {
        if let Some(table) = tables.iter_mut().find(|table| table.name == restricted.table) {
            restricted.choose(table)?;
        }
    }
    if tables.is_empty() {
        none_chosen(settings)?;
    }
    Ok(tables)
}

/// The settings choose tables, and none can be replicated.
pub(crate) fn none_chosen(settings: &Settings) -> Result<(), Fault> {
    let schemas = settings.tables.schemas.join(", ");
    let fix = "choose others with [tables] schemas or include, or: alter table … add primary key (…)";
    Err(Fault::stop(format!("no table with a primary key is chosen in {schemas}"), fix))
}

/// What the settings choose of the tables that are there now.
pub async fn survey(source: &Client, settings: &Settings) -> Result<Survey, Fault> {
    let mut exclude = settings.tables.exclude.clone();
    exclude.push(settings.state.table.to_string()); // ours, whatever its name
    exclude.push(settings.workflows.table.to_string());
    let (schemas, include) = (settings.tables.schemas.clone(), settings.tables.include.clone());
    let selection = Selection { schemas, include, exclude };
    let mut survey = catalog::survey(source, &selection).await?;
    if capturing::choose(settings, source).await? == Kind::Journal {
        journal::sort_out(source, &mut survey, &selection).await?;
    }
    Ok(survey)
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
        names.push(name.to_string());
        if !row.get::<_, bool>(2) {
            schemas.insert(name.schema.clone());
        }
        quoted.push(name);
        role = row.get(3);
    }
    if rows.is_empty() {
        return Ok(());
    }
    Err(Fault::stop(
        format!("role {role} may not read {} at the source", few(&names, ", ")),
        format!("at the source: {};", remedy::may_read(&role, &Vec::from_iter(schemas), &quoted).join("; ")),
    ))
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
    /// Tables to set aside: from now on they miss changes.
    pub park: &'a [Aside],
    /// The stream begins anew here, and no table counts as copied any more.
    pub restart: Option<Lsn>,
    /// `tables` are only some of the route's.
    pub look: bool,
    /// Tables that do not count as copied any more.
    pub again: &'a [TableName],
}

impl<'a> Greeting<'a> {
    /// Asks for nothing yet.
    pub fn new(route: &'a str) -> Self {
        let source = json!({});
        Self { route, source, tables: &[], begin: &[], park: &[], restart: None, look: false, again: &[] }
    }
}

pub async fn hello(client: &rest::Client, greeting: &Greeting<'_>) -> Result<Hello, Fault> {
    let Greeting { route, source, tables, begin, park, restart, look, again } = greeting;
    let tables: Vec<_> = tables
        .iter()
        .map(|table| {
            let columns: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
            let TableName { schema, name } = &table.name;
            json!({"schema": schema, "name": name, "oid": table.oid, "columns": columns, "key": table.key})
        })
        .collect();
    let names = |tables: &[TableName]| -> Vec<_> {
        tables.iter().map(|table| json!({"schema": table.schema, "name": table.name})).collect()
    };
    let (begin, again) = (names(begin), names(again));
    let mut request = json!({"route": route, "source": source, "tables": tables, "begin": begin, "again": again});
    let park: Vec<_> = park
        .iter()
        .filter_map(|aside| Some((&aside.table, aside.cause()?)))
        .map(|(Table { name, key, .. }, cause)| {
            json!({"schema": name.schema, "name": name.name, "reason": cause, "key": key})
        })
        .collect();
    if !park.is_empty() {
        request["park"] = park.into();
    }
    if *look {
        request["look"] = true.into();
    }
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

/// As it is said where the function was called and not found.
pub(crate) fn not_installed() -> Fault {
    let missing =
        rest::Failure { code: Some("PGRST202".into()), class: rest::Class::SetUp, ..rest::Failure::unanswered("") };
    crate::apply::request_fault(&missing, 0)
}

pub(crate) fn other_version(installed: i64) -> Option<Fault> {
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

/// What a comparison or a copy must know.
pub fn reconciling(
    settings: &Settings,
    url: SourceUrl,
    target: rest::Client,
    way: Way,
    kind: Kind,
) -> reconcile::Settings {
    reconcile::Settings {
        url,
        reading: match way {
            Way::Rpc => Reading::Digests,
            Way::Tables => Reading::Rows { slot: settings.source.slot.clone() },
        },
        marks: kind.marks(),
        target,
        route: super::ROUTE.into(),
        range_bytes: settings.copy.chunk_bytes,
        rows_per_second: settings.reconcile.max_rows_per_second,
        listed: settings.reconcile.listed,
        keep_surplus: settings.copy.existing == Existing::Keep,
    }
}

/// Names of the tables, for the publication.
pub fn names(tables: &[Table]) -> Vec<TableName> {
    tables.iter().map(|table| table.name.clone()).collect()
}
