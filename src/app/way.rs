//! Which way rows are written, and what a start asks of both sides for it: by `rpc` one function in the target answers
//! everything; by `tables` the source keeps the progress, and each table is looked at through plain PostgREST.

use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tracing::info;

use super::capturing::{self, Kind};
use super::judge::{Finding, few};
use super::preflight::{self, Greeting, Hello};
use super::route::ROUTE;
use crate::apply::tables::{Probed, probe};
use crate::config::{self, Settings};
use crate::ledger::progress::{self, Progress};
use crate::pg::Client;
use crate::rest::{self, Body};
use crate::types::{Fault, Table, TableName};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Rpc,
    Tables,
}

impl Way {
    pub fn word(self) -> &'static str {
        match self {
            Self::Rpc => "rpc",
            Self::Tables => "tables",
        }
    }
}

/// The way that the settings name; `auto`: by `rpc` where our SQL is installed.
pub async fn choose(settings: &Settings, kind: Kind, source: &Client, target: &rest::Client) -> Result<Way, Fault> {
    let way = match settings.apply.way {
        config::Way::Rpc => Way::Rpc,
        config::Way::Tables if kind == Kind::Journal => return Err(capturing::needs_our_sql()),
        config::Way::Tables => Way::Tables,
        config::Way::Auto if installed(target).await? => Way::Rpc,
        // What the journal brings has its checkpoint there.
        config::Way::Auto if kind == Kind::Journal => return Err(preflight::not_installed()),
        // A schema cache that is stale for a minute must not turn "exactly once" into "at least once".
        config::Way::Auto if progress::elsewhere(source, ROUTE, &settings.source.slot).await? => {
            return Err(preflight::not_installed());
        }
        config::Way::Auto => {
            info!(
                "our SQL is not installed in Supabase; with it (lockstep setup supabase), every change is applied once"
            );
            Way::Tables
        }
    };
    match way {
        Way::Rpc => info!(apply = way.word(), "rows are written through our functions: exactly once"),
        Way::Tables => info!(apply = way.word(), "rows are written by plain requests: at least once, converging"),
    }
    Ok(way)
}

async fn installed(target: &rest::Client) -> Result<bool, Fault> {
    let request = json!({"request": {"route": ROUTE, "source": {}, "tables": [], "begin": [], "look": true}});
    match target.rpc::<Value>("lockstep_hello", Body::Json(request)).await {
        Ok(_) => Ok(true),
        Err(failure) if matches!(failure.code.as_deref(), Some("PGRST202" | "42883")) => Ok(false),
        Err(failure) => Err(crate::apply::request_fault(&failure, 0)),
    }
}

/// Both sides of a start, as one way sees them.
pub struct Desk<'a> {
    pub way: Way,
    pub kind: Kind,
    pub settings: &'a Settings,
    pub source: &'a Client,
    pub target: &'a rest::Client,
}

impl Desk<'_> {
    pub async fn hello(&self, greeting: &Greeting<'_>) -> Result<Hello, Fault> {
        match self.way {
            Way::Rpc => preflight::hello(self.target, greeting).await,
            Way::Tables => self.look(greeting).await,
        }
    }

    /// What `lockstep.hello` does in the target, done from here.
    async fn look(&self, greeting: &Greeting<'_>) -> Result<Hello, Fault> {
        let Greeting { route, source, tables, begin, park, restart, look: _, again } = greeting;
        // What is set aside stays one of ours, and does not count as copied any more.
        let aside: Vec<TableName> = park.iter().map(|aside| aside.table.name.clone()).collect();
        if !begin.is_empty() {
            let all: Vec<TableName> = begin.iter().chain(&aside).cloned().collect();
            progress::begin(self.source, route, source, &all, restart.is_some()).await?;
        }
        let missed: Vec<TableName> = again.iter().chain(&aside).cloned().collect();
        if !missed.is_empty() {
            progress::again(self.source, route, &missed).await?;
        }
        let known = progress::read(self.source, route, &self.settings.source.slot).await?;
        let other = |table: &&Table| {
            let copied = known.copies.iter().find(|copied| copied.table == table.name);
            copied.is_some_and(|copied| copied.oid.is_some_and(|oid| oid != table.oid))
        };
        let replaced: Vec<TableName> = tables.iter().filter(other).map(|table| table.name.clone()).collect();
        let known = if replaced.is_empty() {
            known
        } else {
            progress::again(self.source, route, &replaced).await?;
            progress::read(self.source, route, &self.settings.source.slot).await?
        };
        let probed = probe_all(self.target, tables).await?;
        writable(&probed)?;
        let findings: Result<Vec<Finding>, _> = tables
            .iter()
            .zip(probed)
            .map(|(table, probed)| serde_json::from_value(finding(table, &probed, &known)))
            .collect();
        let findings =
            findings.map_err(|error| Fault::stop(format!("a finding without a form: {error}"), "report it"))?;
        let (major, minor) = (known.checkpoint.major, known.checkpoint.minor);
        Ok(Hello {
            checkpoint: (major, minor),
            source: known.source,
            suppress: false,
            tables: findings,
            parked: Vec::new(),
        })
    }
}

/// Tables that are looked at at once: as many as PostgREST has connections to the database, by default.
const AT_ONCE: usize = 8;

async fn probe_all(target: &rest::Client, tables: &[Table]) -> Result<Vec<Probed>, Fault> {
    let asked: Vec<_> = tables.iter().map(|table| probe(target, table)).collect();
    futures_util::stream::iter(asked).buffered(AT_ONCE).try_collect().await
}

/// Plain PostgREST cannot write a column that is `generated always`, which our functions can.
fn writable(probed: &[Probed]) -> Result<(), Fault> {
    let found: Vec<_> = probed.iter().filter_map(|probed| probed.unwritable.as_ref()).collect();
    if found.is_empty() {
        return Ok(());
    }
    let columns: Vec<String> = found.iter().map(|(column, _)| column.clone()).collect();
    let fixes: Vec<String> = found.iter().map(|(_, sql)| sql.clone()).collect();
    Err(Fault::stop(
        format!("Supabase generates columns always, so that plain requests cannot write them: {}", few(&columns, ", ")),
        format!(
            "in Supabase: {}\n       or install our SQL, which can: lockstep setup supabase",
            few(&fixes, "\n       ")
        ),
    ))
}

fn finding(table: &Table, probed: &Probed, known: &Progress) -> Value {
    let copied = known.copies.iter().find(|copied| copied.table == table.name);
    json!({
        "schema": table.name.schema,
        "name": table.name.name,
        "exists": probed.exists,
        "missing_rights": probed.missing_rights,
        "missing_columns": probed.missing_columns,
        "has_key": probed.has_key,
        "empty": probed.empty,
        "begun": copied.is_some(),
        "copied": copied.is_some_and(|copied| copied.done),
        "cursor": copied.and_then(|copied| copied.cursor.as_ref()),
        "rows": copied.map_or(0, |copied| copied.rows),
    })
}
