//! Which tables take part, which are set aside and why, and whether that has changed since the route began. A table that
//! comes, goes or is renamed is noticed here, and the route looks at both sides again: the others only feel a pause of
//! a moment.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use tracing::debug;

use super::judge::{Finding, judge};
use super::preflight::{self, Greeting};
use super::route::ROUTE;
use crate::capture::slot::{self, publication};
use crate::config::{Existing, Settings};
use crate::pg::Client;
use crate::rest;
use crate::status::TableState;
use crate::types::{Fault, Table, TableName};

/// A table whose changes are skipped while the others go on. It is compared and repaired before it streams again.
#[derive(Clone, Debug)]
pub struct Aside {
    pub table: Table,
    pub state: TableState,
}

/// The tables of a route, sorted out.
#[derive(Debug, Default)]
pub struct Sorted {
    pub active: Vec<Table>,
    /// What the target says of each of them.
    pub findings: Vec<Finding>,
    pub aside: Vec<Aside>,
}

/// Takes out what somebody has paused; and, once a route has `begun`, a table that is new or not there in the target
/// and is not fit: that is no reason to keep the others waiting.
pub fn sort_out(
    tables: &[Table],
    findings: Vec<Finding>,
    paused: &BTreeSet<TableName>,
    existing: Existing,
    begun: bool,
) -> Result<Sorted, Fault> {
    let mut sorted = Sorted::default();
    let mut first = None;
    for (table, finding) in tables.iter().zip(findings) {
        let state = if paused.contains(&table.name) {
            Some(TableState::Paused)
        } else if begun && (!finding.begun || !finding.exists) {
            let verdict = judge(std::slice::from_ref(table), std::slice::from_ref(&finding), existing);
            verdict.err().map(|fault| {
                let cause = fault.to_string().replace("\n  fix:", "; to do:").replace("\n  ", " ");
                first.get_or_insert(fault);
                TableState::Parked { cause }
            })
        } else {
            None
        };
        match state {
            Some(state) => sorted.aside.push(Aside { table: table.clone(), state }),
            None => {
                sorted.active.push(table.clone());
                sorted.findings.push(finding);
            }
        }
    }
    judge(&sorted.active, &sorted.findings, existing)?;
    match first {
        // Nothing could go on: then it is as at a first start.
        Some(fault) if sorted.active.is_empty() => Err(fault),
        _ => Ok(sorted),
    }
}

/// How often the catalogs are looked at, and how many times longer than a look takes the pause is at least.
const LOOK: Duration = Duration::from_secs(2);
const SPARE: u32 = 20;

/// Waits until the tables are not what they were, and says why.
pub async fn until_changed(
    source: &Client,
    target: &rest::Client,
    settings: &Settings,
    active: &[Table],
    aside: &[Aside],
) -> String {
    let all: Vec<Table> = active.iter().chain(aside.iter().map(|aside| &aside.table)).cloned().collect();
    let mut wait = LOOK;
    let mut asked = Instant::now();
    loop {
        tokio::time::sleep(wait).await;
        let began = Instant::now();
        let looked = match altered(source, settings, &all, aside).await {
            Ok(None) if asked.elapsed() >= settings.retry.look_again => {
                asked = Instant::now();
                mended(target, settings, &all, aside).await
            }
            other => other,
        };
        match looked {
            Ok(Some(why)) => return why,
            Ok(None) => {}
            // Capture notices a source that is gone.
            Err(fault) => debug!(cause = %fault, "the tables could not be looked at"),
        }
        wait = LOOK.max(began.elapsed() * SPARE);
    }
}

/// What has changed at the source.
async fn altered(
    source: &Client,
    settings: &Settings,
    all: &[Table],
    aside: &[Aside],
) -> Result<Option<String>, Fault> {
    let now = preflight::survey(source, settings).await?.tables;
    if let Some(table) = now.iter().find(|table| all.iter().all(|known| known.oid != table.oid)) {
        return Ok(Some(format!("{} was added at the source", table.name)));
    }
    for known in all {
        match now.iter().find(|table| table.oid == known.oid) {
            None => return Ok(Some(format!("{} is not replicated any more", known.name))),
            Some(table) if table.name != known.name => {
                return Ok(Some(format!("{} was renamed to {}", known.name, table.name)));
            }
            Some(_) => {}
        }
    }
    let published = names(all, aside);
    let missing = unpublished(source, settings, &published).await?;
    Ok(missing.first().map(|table| format!("{table} was taken out of the publication")))
}

/// The names of the tables that are published: new ones that are not fit are not.
pub fn names(all: &[Table], aside: &[Aside]) -> Vec<TableName> {
    let unfit = |name: &TableName| {
        aside.iter().any(|aside| aside.table.name == *name && matches!(aside.state, TableState::Parked { .. }))
    };
    all.iter().map(|table| table.name.clone()).filter(|name| !unfit(name)).collect()
}

/// Tables whose changes the publication leaves out, so that they were missed.
pub async fn unpublished(source: &Client, settings: &Settings, tables: &[TableName]) -> Result<Vec<TableName>, Fault> {
    let (slot, publication) = (&settings.source.slot, &settings.source.publication);
    publication::missing(source, &slot::Want { slot, publication, tables, create: false }).await
}

/// A table that was not fit and is now.
async fn mended(
    target: &rest::Client,
    settings: &Settings,
    all: &[Table],
    aside: &[Aside],
) -> Result<Option<String>, Fault> {
    let parked = |aside: &&Aside| matches!(aside.state, TableState::Parked { .. });
    if !aside.iter().any(|aside| parked(&aside)) {
        return Ok(None);
    }
    // All of them are named: those that are not would be forgotten.
    let greeting = Greeting { route: ROUTE, source: json!({}), tables: all, begin: &[], restart: None, again: &[] };
    let findings = preflight::hello(target, &greeting).await?.tables;
    for aside in aside.iter().filter(parked) {
        let finding = all.iter().zip(&findings).find(|(table, _)| table.oid == aside.table.oid);
        if let Some((table, finding)) = finding
            && judge(std::slice::from_ref(table), std::slice::from_ref(finding), settings.copy.existing).is_ok()
        {
            return Ok(Some(format!("{} can be replicated now", table.name)));
        }
    }
    Ok(None)
}
