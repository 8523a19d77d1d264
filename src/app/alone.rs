//! What can be done without a running service: compare both sides, count them, and read the history.

use futures_util::StreamExt;
use tokio::sync::watch;

use super::{capturing, preflight, way};
use crate::config::Settings;
use crate::jobs::history;
use crate::pg;
use crate::reconcile;
use crate::rest;
use crate::types::{Fault, Job, Progress, RunRow, Table, TableName, TableReport};

/// Compares the tables that are named (`agents` or `public.agents`; none means all) over connections of its own.
pub async fn compare(
    settings: &Settings,
    names: &[String],
    progress: &watch::Sender<Option<Progress>>,
) -> Result<Vec<TableReport>, Fault> {
    let url = preflight::source_url(settings)?;
    let source = pg::connect(&url, "lockstep verify").await?;
    let mut tables = preflight::tables(&source, settings).await?;
    if !names.is_empty() {
        tables.extend(preflight::survey(&source, settings).await?.keyless);
    }
    let wanted = names.iter().map(|name| find(&tables, name)).collect::<Result<Vec<_>, _>>()?;
    let target = preflight::client(settings)?;
    let kind = capturing::choose(settings, &source).await?;
    let way = way::choose(settings, kind, &source, &target).await?;
    let reconciling = preflight::reconciling(settings, url, target, way, kind);
    let job = Job { tables: wanted, repair: false, why: "asked for".into() };
    reconcile::run(&reconciling, &tables, &job, None, progress).await
}

/// Which of these tables have no key, so that they are not replicated, and can only be compared as a whole.
pub async fn without_key(settings: &Settings, names: &[String]) -> Result<Vec<String>, Fault> {
    let source = pg::connect(&preflight::source_url(settings)?, "lockstep verify").await?;
    let keyless = preflight::survey(&source, settings).await?.keyless;
    Ok(names.iter().filter(|name| find(&keyless, name).is_ok()).cloned().collect())
}

fn find(tables: &[Table], name: &str) -> Result<TableName, Fault> {
    let fits = |table: &&Table| table.name.to_string() == name || table.name.name == name;
    let found: Vec<&Table> = tables.iter().filter(fits).collect();
    match found[..] {
        [one] => Ok(one.name.clone()),
        [] => Err(Fault::stop(format!("there is no replicated table {name}"), "see `lockstep tables`")),
        [first, ..] => Err(Fault::stop(format!("{name} is in several schemas"), format!("write {}", first.name))),
    }
}

/// The history of runs, as the source has it.
pub async fn runs(settings: &Settings, limit: u32) -> Result<Vec<RunRow>, Fault> {
    history::list(&preflight::source_url(settings)?, limit).await
}

/// How many rows a table has on each side, or why that cannot be told.
#[derive(Clone, Debug)]
pub struct Counted {
    pub table: TableName,
    pub source: Result<u64, String>,
    pub target: Result<u64, String>,
}

/// Tables that are counted at once: each is a whole table read on either side.
const COUNTS: usize = 4;

/// Counts the tables that are named (none means all) on both sides.
pub async fn data(settings: &Settings, names: &[String]) -> Result<Vec<Counted>, Fault> {
    let source = pg::connect(&preflight::source_url(settings)?, "lockstep data").await?;
    let target = preflight::client(settings)?;
    let mut tables = preflight::tables(&source, settings).await?;
    if !names.is_empty() {
        let wanted = names.iter().map(|name| find(&tables, name)).collect::<Result<Vec<_>, _>>()?;
        tables.retain(|table| wanted.contains(&table.name));
    }
    let count = async |table: Table| {
        let (source, target) = tokio::join!(here(&source, &table.name), there(&target, &table.name));
        Counted { table: table.name, source, target }
    };
    Ok(futures_util::stream::iter(tables.into_iter().map(count)).buffered(COUNTS).collect().await)
}

async fn here(source: &pg::Client, table: &TableName) -> Result<u64, String> {
    // A parent's rows are replicated as its own tables are.
    let sql = format!("select count(*) from {}", pg::quote::table(table));
    let row = source.query_one(&sql, &[]).await.map_err(|error| pg::client::fault(&error).to_string())?;
    u64::try_from(row.get::<_, i64>(0)).map_err(|error| error.to_string())
}

async fn there(target: &rest::Client, table: &TableName) -> Result<u64, String> {
    match target.count(table).await {
        Ok(rows) => rows.ok_or_else(|| "Supabase does not say how many".into()),
        Err(failure) if matches!(failure.code.as_deref(), Some("PGRST205" | "42P01")) => {
            Err("no such table in Supabase".into())
        }
        Err(failure) => Err(failure.to_string()),
    }
}
