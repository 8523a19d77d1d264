//! Which tables take part, which are set aside and why, and whether that has changed since the route began. A table that
//! comes, goes or is renamed is noticed here, and the route looks at both sides again: the others only feel a pause of
//! a moment.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, info};

use super::capturing::{self, Kind};
use super::evolve;
use super::judge::{self, Finding, judge};
use super::preflight::{self, Greeting};
use super::route::ROUTE;
use super::way::Desk;
use crate::capture::slot::{self, publication, restricted};
use crate::config::{OnRefusal, Settings};
use crate::pg::{Client, client};
use crate::status::TableState;
use crate::types::{Fault, Table, TableName};

/// A table whose changes are skipped while the others go on. It is compared and repaired before it streams again.
///
/// So it stops counting as copied in the call that sets it aside, before the stream passes over its first change: nothing
/// that happens meanwhile can stay wrong or missing.
#[derive(Clone, Debug)]
pub struct Aside {
    pub table: Table,
    pub state: TableState,
}

impl Aside {
    /// Why it was set aside, unless somebody has paused it.
    pub fn cause(&self) -> Option<&str> {
        match &self.state {
            TableState::Parked { cause } => Some(cause),
            _ => None,
        }
    }
}

/// A table that was refused while it streamed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub table: TableName,
    pub cause: String,
}

/// The tables of a route, sorted out.
#[derive(Debug, Default)]
pub struct Sorted {
    pub active: Vec<Table>,
    /// What the target says of each of them.
    pub findings: Vec<Finding>,
    pub aside: Vec<Aside>,
}

/// Takes out what somebody has paused, what was refused, and what does not fit (any more) once a route has `begun`: that
/// is no reason to keep the others waiting. At the first start somebody looks, and is told.
pub fn sort_out(
    settings: &Settings,
    tables: &[Table],
    findings: Vec<Finding>,
    paused: &BTreeSet<TableName>,
    refused: &[Refused],
    begun: bool,
) -> Result<Sorted, Fault> {
    let mut sorted = Sorted::default();
    let mut first = None;
    for (table, finding) in tables.iter().zip(findings) {
        let cause = || unfit(settings, table, &finding, refused, begun);
        let state = match paused.contains(&table.name) {
            true => Some(TableState::Paused),
            false => cause().map(|(cause, fault)| {
                error!(table = %table.name, %cause, "set aside; the other tables go on");
                first = first.take().or(fault);
                TableState::Parked { cause }
            }),
        };
        match state {
            Some(state) => sorted.aside.push(Aside { table: table.clone(), state }),
            None => {
                if finding.parked.is_some() {
                    info!(table = %table.name, "takes part again: it is compared and repaired");
                }
                sorted.active.push(table.clone());
                sorted.findings.push(finding);
            }
        }
    }
    judge(&sorted.active, &sorted.findings, settings.copy.existing)?;
    match first {
        // Nothing could go on: then it is as at a first start.
        Some(fault) if sorted.active.is_empty() => Err(fault),
        _ => Ok(sorted),
    }
}

/// Why a table is to be set aside; with the fault where it has never taken part.
fn unfit(
    settings: &Settings,
    table: &Table,
    finding: &Finding,
    refused: &[Refused],
    begun: bool,
) -> Option<(String, Option<Fault>)> {
    let strict = settings.apply.on_refusal == OnRefusal::Strict;
    if begun && (!finding.begun || !strict && !finding.exists) {
        let verdict = judge(std::slice::from_ref(table), std::slice::from_ref(finding), settings.copy.existing);
        if let Err(fault) = verdict {
            return Some((fault.to_string().replace("\n  fix:", "; to do:").replace("\n  ", " "), Some(fault)));
        }
    }
    if strict {
        return None;
    }
    if finding.begun
        && let Some((cause, fix)) = judge::unfit(table, finding)
    {
        return Some((format!("{cause}; {fix}"), None));
    }
    let refused = refused.iter().find(|refused| refused.table == table.name)?;
    Some((refused.cause.clone(), None))
}

/// Tables that the next look has compared. What is noted while the stream runs may be overtaken by a range of a copy that
/// is on its way; by the next look nothing is.
#[derive(Clone, Default)]
pub struct Again(Arc<Mutex<BTreeSet<TableName>>>);

impl Again {
    pub fn add(&self, tables: impl IntoIterator<Item = TableName>) {
        self.held().extend(tables);
    }

    pub fn all(&self) -> BTreeSet<TableName> {
        self.held().clone()
    }

    /// They are on record.
    pub fn done(&self, tables: &BTreeSet<TableName>) {
        self.held().retain(|table| !tables.contains(table));
    }

    fn held(&self) -> MutexGuard<'_, BTreeSet<TableName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often the catalogs are looked at, and how many times longer than a look takes the pause is at least.
const LOOK: Duration = Duration::from_secs(2);
const SPARE: u32 = 20;

/// Waits until the tables are not what they were, and says why.
pub async fn until_changed(
    desk: &Desk<'_>,
    active: &[Table],
    aside: &[Aside],
    marks: &publication::Marks,
    again: &Again,
) -> String {
    let all: Vec<Table> = active.iter().chain(aside.iter().map(|aside| &aside.table)).cloned().collect();
    let mut wait = LOOK;
    let mut asked = Instant::now();
    let parts = partitions(desk.source).await.unwrap_or_default();
    loop {
        tokio::time::sleep(wait).await;
        let began = Instant::now();
        let altered = match altered(desk, &all, aside).await {
            Ok(None) => repartitioned(desk, active, &parts, again).await,
            other => other,
        };
        let altered = match altered {
            Ok(None) => republished(desk, active, marks).await,
            other => other,
        };
        let looked = match altered {
            Ok(None) if asked.elapsed() >= desk.settings.retry.look_again => {
                asked = Instant::now();
                mended(desk, aside).await
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
async fn altered(desk: &Desk<'_>, all: &[Table], aside: &[Aside]) -> Result<Option<String>, Fault> {
    let (source, settings) = (desk.source, desk.settings);
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
            Some(table) if table.key != known.key => return Ok(Some(format!("{} has another key", known.name))),
            Some(_) => {}
        }
    }
    if desk.kind == Kind::Journal {
        return capturing::altered(source, &names(all, aside)).await;
    }
    let restricted = restricted::read(source, &settings.source.publication).await?;
    if let Some(table) = all.iter().find(|table| restricted.iter().any(|one| one.differs(table))) {
        return Ok(Some(format!("the publication shows less of {} now", table.name)));
    }
    let published = names(all, aside);
    let missing = unpublished(desk, &published).await?;
    Ok(missing.first().map(|table| format!("{table} was taken out of the publication")))
}

/// Each partition and its root, where that matters.
const PARTITIONS: &str = "select pg_partition_root(c.oid)::oid, c.oid from pg_class c where c.relispartition \
     and current_setting('server_version_num')::int < 150000 order by 1, 2";

/// Whether the slot has passed a point.
const PASSED: &str = "select coalesce(max(confirmed_flush_lsn) >= $2::text::pg_lsn, true) from pg_replication_slots \
     where slot_name = $1::text";
/// Seconds to wait for that: the checkpoint passes what is not for us every ten.
const PASSES_WITHIN: u32 = 60;

async fn partitions(source: &Client) -> Result<Vec<(u32, u32)>, Fault> {
    let rows = source.query(PARTITIONS, &[]).await.map_err(|error| client::fault(&error))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Before version 15 a stream that runs does not notice that a partition came or went, and leaves its changes out, or
/// brings them still. So the stream begins anew, and the table is compared.
async fn repartitioned(
    desk: &Desk<'_>,
    active: &[Table],
    before: &[(u32, u32)],
    look: &Again,
) -> Result<Option<String>, Fault> {
    if desk.kind == Kind::Journal {
        return Ok(None); // a new partition lacks its triggers, which was seen before
    }
    let now = partitions(desk.source).await?;
    let differs = |table: &&Table| {
        let of = |all: &[(u32, u32)]| all.iter().filter(|(root, _)| *root == table.oid).copied().collect::<Vec<_>>();
        of(&now) != of(before)
    };
    let again: Vec<TableName> = active.iter().filter(differs).map(|table| table.name.clone()).collect();
    let Some(first) = again.first() else { return Ok(None) };
    desk.hello(&Greeting { look: true, again: &again, ..Greeting::new(ROUTE) }).await?;
    look.add(again.iter().cloned());
    // A new stream that meets rows of the partition from before it was one would leave it out again.
    let fault = |error: tokio_postgres::Error| client::fault(&error);
    let end: String =
        desk.source.query_one("select pg_current_wal_insert_lsn()::text", &[]).await.map_err(fault)?.get(0);
    for _ in 0..PASSES_WITHIN {
        let passed = desk.source.query_one(PASSED, &[&desk.settings.source.slot, &end]).await.map_err(fault)?;
        if passed.get(0) {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(Some(format!("{first} has other partitions, which a stream of this version of PostgreSQL does not notice")))
}

/// Somebody has altered the publication, or taken tables out and put them in again, faster than they were looked at; or
/// switched the journal's triggers off and on. The next look knows the marks of before, and has the tables compared.
async fn republished(desk: &Desk<'_>, active: &[Table], before: &publication::Marks) -> Result<Option<String>, Fault> {
    let now = capturing::marks(desk, active).await?;
    let altered = active.iter().any(|table| before.altered(&now, table.oid));
    Ok(altered.then(|| {
        let what = match desk.kind {
            Kind::Wal => "the publication was altered",
            Kind::Journal => "triggers of the journal were switched, or partitions are other ones",
        };
        format!("{what}: what it may have left out is compared")
    }))
}

/// The names of the tables that are published: new ones that are not fit are not.
pub fn names(all: &[Table], aside: &[Aside]) -> Vec<TableName> {
    let unfit = |name: &TableName| {
        aside.iter().any(|aside| aside.table.name == *name && matches!(aside.state, TableState::Parked { .. }))
    };
    all.iter().map(|table| table.name.clone()).filter(|name| !unfit(name)).collect()
}

/// Tables whose changes the publication leaves out, so that they were missed.
pub async fn unpublished(desk: &Desk<'_>, tables: &[TableName]) -> Result<Vec<TableName>, Fault> {
    let (slot, publication) = (&desk.settings.source.slot, &desk.settings.source.publication);
    publication::missing(desk.source, &slot::Want { slot, publication, tables, create: false }).await
}

/// A table that was not fit and is now; or may be, where only its rows can tell.
async fn mended(desk: &Desk<'_>, aside: &[Aside]) -> Result<Option<String>, Fault> {
    let parked = aside.iter().filter(|aside| aside.cause().is_some()).map(|aside| aside.table.name.clone());
    let parked: BTreeSet<TableName> = parked.collect();
    if parked.is_empty() {
        return Ok(None);
    }
    let mut tables = preflight::tables(desk.source, desk.settings).await?;
    tables.retain(|table| parked.contains(&table.name));
    let look = Greeting { look: true, tables: &tables, ..Greeting::new(ROUTE) };
    let findings = desk.hello(&look).await?.tables;
    if evolve::evolve(desk, &tables, &findings).await? {
        return Ok(Some("columns were added in Supabase too".into()));
    }
    let fit = tables.iter().zip(&findings).find(|(table, finding)| {
        judge(std::slice::from_ref(table), std::slice::from_ref(finding), desk.settings.copy.existing).is_ok()
    });
    Ok(fit.map(|(table, _)| format!("{} can be replicated now", table.name)))
}
