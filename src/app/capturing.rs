//! By which of the two captures a route runs, and what each of them must find at the source.

use std::collections::HashSet;

use serde_json::Value;
use tracing::{info, warn};

use super::recovery::{Broken, Facts, SlotFacts};
use super::way::Desk;
use crate::capture::slot::{self, publication};
use crate::config::{Capture, Settings};
use crate::ledger::journal;
use crate::pg::{self, Client, client};
use crate::reconcile::Marks;
use crate::remedy;
use crate::types::{Fault, Lsn, Position, Table, TableName};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Wal,
    Journal,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::Journal => "journal",
        }
    }

    pub fn marks(self) -> Marks {
        match self {
            Self::Wal => Marks::Wal,
            Self::Journal => Marks::Journal,
        }
    }

    /// What a route was captured by; one of an earlier version names none.
    pub fn known(source: &Value) -> Self {
        if source["capture"] == "journal" { Self::Journal } else { Self::Wal }
    }
}

const POSSIBLE: &str = "select exists (select from pg_replication_slots where slot_name = $1), \
     exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace \
       where n.nspname = 'lockstep' and c.relname = 'journal_state'), \
     current_setting('wal_level') = 'logical' and current_setting('max_wal_senders')::int > 0 \
     and exists (select from pg_roles r where r.rolname = current_user and (r.rolsuper or r.rolreplication))";

/// What the settings name; `auto`: what is there already, else a slot where one can be had, else triggers.
pub async fn choose(settings: &Settings, source: &Client) -> Result<Kind, Fault> {
    match settings.source.capture {
        Capture::Wal => return Ok(Kind::Wal),
        Capture::Journal => return Ok(Kind::Journal),
        Capture::Auto => {}
    }
    let row = source.query_one(POSSIBLE, &[&settings.source.slot]).await.map_err(|error| client::fault(&error))?;
    let (slot, journal, possible): (bool, bool, bool) = (row.get(0), row.get(1), row.get(2));
    Ok(match (slot, journal, possible) {
        (true, _, true) | (_, false, true) => Kind::Wal,
        _ => Kind::Journal,
    })
}

/// Says which one it is.
pub fn tell(settings: &Settings, kind: Kind) {
    let why = match settings.source.capture {
        Capture::Auto => "chosen by what the source allows",
        _ => "as the settings say",
    };
    match kind {
        Kind::Wal => info!(capture = kind.word(), why, "changes are read from a replication slot"),
        Kind::Journal => info!(capture = kind.word(), why, "changes are read from the journal that triggers write"),
    }
}

/// The journal keeps its checkpoint in the target only.
pub fn needs_our_sql() -> Fault {
    Fault::stop(
        "capture by journal needs our SQL in Supabase, where its checkpoint is kept: apply.way = \"tables\" does without",
        format!("{}, and let apply.way be \"auto\" or \"rpc\"", remedy::INSTALL),
    )
}

/// Whether the journal can go on from the checkpoint: as `recovery::judge` has it of a slot.
pub async fn judge_journal(source: &Client, facts: Facts) -> Result<Option<Broken>, Fault> {
    // What a reader that goes on confirms meanwhile is no reason to begin anew: this one waits for its turn.
    if let Some(pid) = journal::reader(source).await? {
        return Err(Fault::retry(format!("the journal is read by another Lockstep (pid {pid})")));
    }
    let fresh = facts.checkpoint == Position::default();
    let Some(found) = journal::find(source).await? else { return Ok((!fresh).then_some(Broken::JournalGone)) };
    if !fresh && (found.began > facts.checkpoint.lsn() || !journal::holds(source, facts.checkpoint).await?) {
        return Ok(Some(Broken::JournalGone));
    }
    let slot = Some(SlotFacts { confirmed: found.confirmed, lost: false });
    Ok(super::recovery::judge(&Facts { slot, publication: true, ..facts }))
}

/// Makes what is missing, if it may, and says from where the journal holds all.
async fn ensure_journal(desk: &Desk<'_>, tables: &[TableName]) -> Result<Lsn, Fault> {
    let source = desk.source;
    let plan = journal::plan(source, tables, None).await?;
    if !plan.statements.is_empty() {
        if !desk.settings.source.create {
            return Err(Fault::stop(
                "the source's journal is missing, or does not fit the tables as they are",
                "as owner of the tables: lockstep setup source --capture journal --apply",
            ));
        }
        journal::allowed(source, tables).await?;
        journal::apply(source, &plan).await?;
        info!(tables = tables.len(), "made the journal's triggers");
    }
    let row = source.query_one("select pg_current_wal_insert_lsn()::text", &[]).await;
    row.map_err(|error| client::fault(&error))?.get::<_, String>(0).parse().map_err(Fault::retry)
}

/// What the journal does not hold.
#[derive(Debug, Default)]
pub struct Missed {
    pub tables: Vec<TableName>,
    /// Those of them that were altered meanwhile, by oid: statements are noted, and what they did is not.
    pub lost: HashSet<u32>,
}

/// Whose changes a journal that goes on at `from` does not hold.
pub async fn missed(desk: &Desk<'_>, tables: &[Table], from: Position) -> Result<Missed, Fault> {
    let all: Vec<TableName> = tables.iter().map(|table| table.name.clone()).collect();
    let found = match desk.kind {
        Kind::Wal => return Ok(Missed::default()),
        Kind::Journal => journal::find(desk.source).await?,
    };
    let Some(_) = found else { return Ok(Missed { tables: all, lost: HashSet::new() }) };
    let (lost, altered) = journal::lost(desk.source, from.lsn()).await?;
    let plan = journal::plan(desk.source, &all, None).await?;
    let missed = |name: &TableName| [&plan.unwatched, &plan.remade, &altered].iter().any(|some| some.contains(name));
    Ok(Missed { tables: all.into_iter().filter(missed).collect(), lost })
}

/// What tells what is captured from what it was: of the publication, or of the journal's triggers.
pub async fn marks(desk: &Desk<'_>, tables: &[Table]) -> Result<publication::Marks, Fault> {
    match desk.kind {
        Kind::Wal => publication::marks(desk.source, &desk.settings.source.publication).await,
        Kind::Journal => {
            let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
            Ok(publication::Marks::from(journal::marks(desk.source, &oids).await?))
        }
    }
}

/// The tables that are followed, and their partitions, by oid.
pub async fn watched(desk: &Desk<'_>, active: &[Table]) -> Result<HashSet<u32>, Fault> {
    match desk.kind {
        Kind::Wal => Ok(HashSet::new()),
        Kind::Journal => journal::with_parts(desk.source, active).await,
    }
}

/// Takes the triggers off tables that are not replicated any more: what they write, nobody reads.
pub async fn leave_others(desk: &Desk<'_>, tables: &[Table]) {
    if desk.kind == Kind::Wal || !desk.settings.source.create {
        return;
    }
    match journal::leave_others(desk.source, tables).await {
        Ok(0) => {}
        Ok(functions) => info!(functions, "took the journal's triggers off tables that are not replicated any more"),
        Err(cause) => warn!(%cause, "the journal's triggers stay on tables that are not replicated any more"),
    }
}

/// What is not as the journal needs it, in words.
pub async fn altered(source: &Client, tables: &[TableName]) -> Result<Option<String>, Fault> {
    if journal::find(source).await?.is_none() {
        return Ok(Some("the journal is gone from the source".into()));
    }
    let plan = journal::plan(source, tables, None).await?;
    if let Some(table) = plan.unwatched.first() {
        return Ok(Some(format!("{table} lacks a trigger of the journal")));
    }
    Ok((!plan.statements.is_empty()).then(|| "tables have other columns than their triggers know".to_owned()))
}

const OLD_SLOT: &str = "select active from pg_replication_slots where slot_name = $1 and plugin = 'pgoutput' \
     and database = current_database()";

/// What the other capture has left at the source: a slot that nobody reads keeps WAL for ever, and a journal that nobody
/// reads grows. A route that has just changed takes it away, once the target knows of the change. Nothing of this keeps a
/// route from running: what cannot be seen or done is told.
pub async fn clean(source: &Client, settings: &Settings, kind: Kind, changed: bool) {
    let (what, sql) = match left_behind(source, settings, kind).await {
        Ok(Some(left)) => left,
        Ok(None) => return,
        Err(fault) => return warn!(cause = %fault, "could not look for what another capture has left at the source"),
    };
    if !(changed && settings.source.create) {
        warn!("the source still has {what}, which nobody reads and which grows: lockstep setup, or: {}", sql.join(" "));
        return;
    }
    for statement in &sql {
        if let Err(error) = source.batch_execute(statement).await {
            let cause = client::fault(&error);
            return warn!(%cause, "could not take away {what} that nobody reads; as its owner: {}", sql.join(" "));
        }
    }
    info!("took away {what} that nobody reads any more");
}

/// A journal that somebody reads is another Lockstep's.
async fn left_behind(
    source: &Client,
    settings: &Settings,
    kind: Kind,
) -> Result<Option<(&'static str, Vec<String>)>, Fault> {
    if kind == Kind::Wal {
        let left = journal::is_there(source).await? && journal::reader(source).await?.is_none();
        return Ok(left.then(|| ("a journal", journal::remove())));
    }
    let slot = source.query_opt(OLD_SLOT, &[&settings.source.slot]).await.map_err(|error| client::fault(&error))?;
    let left = slot.is_some_and(|row| !row.get::<_, bool>(0));
    Ok(left.then(|| ("a replication slot", vec![remedy::drop_slot(&settings.source.slot)])))
}

/// The slot's consistent point, or the journal's end: from there the new stream holds all.
pub async fn begin(desk: &Desk<'_>, url: &pg::Url, tables: &[TableName]) -> Result<Lsn, Fault> {
    if desk.kind == Kind::Journal {
        return ensure_journal(desk, tables).await;
    }
    let settings = &desk.settings.source;
    let (slot, publication) = (&settings.slot, &settings.publication);
    let want = slot::Want { slot, publication, tables, create: settings.create };
    let made = slot::ensure(desk.source, url, &want).await?;
    if made.created {
        info!(%slot, from = %made.confirmed, "made the slot");
    }
    Ok(made.confirmed)
}
