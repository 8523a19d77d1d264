//! Tables that are set aside because the two sides differ in shape (a column, a key, a whole table), while the others
//! go on; and how they take part again.
//!
//! A table that is set aside misses changes. So it stops counting as copied in the call that sets it aside, before the
//! stream passes over its first change; when it is fit again it is compared and repaired like after a first start, and
//! nothing that happened meanwhile can be wrong or missing.

use serde::Deserialize;
use serde_json::json;
use tracing::{error, info, warn};

use super::judge::{Finding, unfit};
use super::preflight::{self, Greeting};
use super::route::ROUTE;
use crate::config::{Evolve, OnRefusal, Settings};
use crate::pg::{self, Client};
use crate::rest::{self, Body};
use crate::types::{Fault, Table, TableName};

/// A table that is set aside, and what lets it take part again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    pub table: TableName,
    pub cause: String,
}

/// Parts the tables that are fit from those to set aside. `refused` were refused while they streamed. Only what was fit
/// before is set aside: at the first start somebody looks, and is told.
pub fn part(
    settings: &Settings,
    tables: Vec<Table>,
    findings: Vec<Finding>,
    refused: &[Aside],
) -> (Vec<Table>, Vec<Finding>, Vec<Aside>) {
    if settings.apply.on_refusal == OnRefusal::Strict {
        return (tables, findings, Vec::new());
    }
    let (mut fit, mut found, mut aside) = (Vec::new(), Vec::new(), Vec::new());
    for (table, finding) in tables.into_iter().zip(findings) {
        let cause = match (finding.begun, unfit(&table, &finding)) {
            (true, Some((cause, fix))) => Some(format!("{cause}; {fix}")),
            _ => refused.iter().find(|aside| aside.table == table.name).map(|aside| aside.cause.clone()),
        };
        match cause {
            Some(cause) => {
                error!(table = %table.name, %cause, "set aside; the other tables go on");
                aside.push(Aside { table: table.name, cause });
            }
            None => {
                if finding.parked.is_some() {
                    info!(table = %table.name, "takes part again: it is compared and repaired");
                }
                fit.push(table);
                found.push(finding);
            }
        }
    }
    (fit, found, aside)
}

/// Ends with a fault that starts the route anew once a table that is set aside is fit again, or a while has passed for
/// those of which only their rows can tell.
pub async fn until_fit(settings: &Settings, aside: Vec<Aside>) -> Fault {
    if aside.is_empty() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(settings.retry.look_again).await;
        // Who cannot be reached is noticed by the parts that stream.
        if let Ok(Some(table)) = look(settings, &aside).await {
            return Fault::retry(format!("{table} was set aside and takes part again"));
        }
    }
}

async fn look(settings: &Settings, aside: &[Aside]) -> Result<Option<TableName>, Fault> {
    let source = pg::connect(&preflight::source_url(settings)?, "lockstep look").await?;
    let mut tables = preflight::tables(&source, settings).await?;
    tables.retain(|table| aside.iter().any(|aside| aside.table == table.name));
    let target = preflight::client(settings)?;
    let findings = examine(&target, &tables).await?;
    if evolve(settings, &source, &target, &tables, &findings).await? {
        return Ok(tables.into_iter().next().map(|table| table.name));
    }
    let fit = tables.iter().zip(&findings).find(|(table, finding)| unfit(table, finding).is_none());
    Ok(fit.map(|(table, _)| table.name.clone()))
}

/// What the target says about some of the tables.
async fn examine(target: &rest::Client, tables: &[Table]) -> Result<Vec<Finding>, Fault> {
    let look = Greeting { look: true, tables, ..Greeting::new(ROUTE) };
    Ok(preflight::hello(target, &look).await?.tables)
}

/// What a column that was added at the source must be over there. Its rows from before have the value that the ALTER
/// gave them, which the stream never tells.
const ADDED: &str = "select a.attname::text, format_type(a.atttypid, -1), \
     case when a.atthasmissing then a.attmissingval::text end \
     from pg_attribute a where a.attrelid = $1 and a.attname = any($2) order by a.attnum";

/// Adds columns that the target lacks, where the settings say so. Says whether it did.
pub async fn evolve(
    settings: &Settings,
    source: &Client,
    target: &rest::Client,
    tables: &[Table],
    findings: &[Finding],
) -> Result<bool, Fault> {
    let mut evolved = false;
    if settings.schema.evolve != Evolve::Additive {
        return Ok(false);
    }
    for (table, finding) in tables.iter().zip(findings).filter(|(_, f)| f.begun && !f.missing_columns.is_empty()) {
        let rows = source.query(ADDED, &[&table.oid, &finding.missing_columns]).await;
        let rows = rows.map_err(|error| pg::client::fault(&error))?;
        let columns: Vec<_> = rows
            .iter()
            .map(|row| {
                let (name, kind, old): (String, String, Option<String>) = (row.get(0), row.get(1), row.get(2));
                json!({"name": name, "type": kind, "old": old})
            })
            .collect();
        let request =
            json!({"route": ROUTE, "schema": table.name.schema, "table": table.name.name, "columns": columns});
        let names = finding.missing_columns.join(", ");
        match target.rpc::<Evolved>("lockstep_evolve", Body::Json(json!({ "request": request }))).await {
            Ok(Evolved { refused: None }) => {
                info!(table = %table.name, columns = %names, "added the columns in Supabase too");
                evolved = true;
            }
            // It is set aside then, with the statement that somebody else may run.
            Ok(Evolved { refused: Some(cause) }) => {
                warn!(table = %table.name, columns = %names, %cause, "the columns could not be added in Supabase");
            }
            Err(failure) => return Err(crate::apply::request_fault(&failure, 0)),
        }
    }
    Ok(evolved)
}

#[derive(Deserialize)]
struct Evolved {
    refused: Option<String>,
}
