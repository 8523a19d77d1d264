//! The slot and the publication: looks whether the source can feed a route, and creates what is missing if it may.
//!
//! Each reason why it cannot is one `Fault` that names the thing and the SQL or setting that mends it.

use std::time::{Duration, Instant};

use crate::pg::replication::{Connection, Failure, System};
use crate::pg::{Client, Url, client, quote};
use crate::remedy;
use crate::types::{Fault, Lsn, Position, TableName};

use super::Settings;

pub mod publication;
mod refusal;
pub mod restricted;
pub(crate) mod server;

pub(crate) use refusal::{NO_FREE_SLOT, lost_slot};
use refusal::{gone_slot, in_use, no_free_slot, waits, wal_level};
use server::{Server, identify};

/// Which cluster it is, known before anything is made there. `ensure` says it too.
pub async fn system_identifier(client: &Client) -> Result<String, Fault> {
    let identifier = "select system_identifier::text from pg_control_system()";
    let row = client.query_one(identifier, &[]).await.map_err(|error| client::fault(&error))?;
    Ok(row.get(0))
}

/// What a route wants of its source.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    pub slot: &'a str,
    pub publication: &'a str,
    pub tables: &'a [TableName],
    /// Whether what is missing may be created; else the SQL that does it is in the fault.
    pub create: bool,
}

/// A source that is ready to be streamed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub system_identifier: String,
    pub timeline: u32,
    /// As `server_version_num`: 150004.
    pub version: u32,
    /// What commits at or behind this is sent. With `created` it is the slot's consistent point: where a route starts.
    pub confirmed: Lsn,
    pub created: bool,
}

/// Looks at the source; creates publication and slot, in this order, where they are missing and may be created.
pub async fn ensure(client: &Client, url: &Url, want: &Want<'_>) -> Result<Source, Fault> {
    let server = Server::read(client).await?;
    server.judge()?;
    let System { identifier, timeline, .. } = identify(url, &server).await?;
    let slot = ours(client, want.slot, &server.database).await?;
    if slot.is_none() && server.free_slots <= 0 {
        return Err(no_free_slot(client).await);
    }
    publication::ensure(client, want, server.version, slot.is_some()).await?;
    let (confirmed, created) = match slot {
        Some(slot) => (slot.confirmed, false),
        None => (create(client, want, server.version).await?, true),
    };
    Ok(Source { system_identifier: identifier, timeline, version: server.version, confirmed, created })
}

/// A predecessor that was killed holds its slot until its walsender notices: mostly for some milliseconds, longer
/// where it was busy. Who holds it after this time is somebody else.
const HELD: Duration = Duration::from_secs(15);

/// The slot, if it is there, once nobody else uses it.
async fn ours(client: &Client, name: &str, database: &str) -> Result<Option<Slot>, Fault> {
    let until = Instant::now() + HELD;
    let mut told = false;
    loop {
        let Some(slot) = Slot::read(client, name).await? else { return Ok(None) };
        match slot.judge(database) {
            Ok(()) => return Ok(Some(slot)),
            Err(Fault::Retry { cause }) if Instant::now() < until => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(%cause, "waiting for the slot");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(Fault::Retry { cause }) => return Err(Fault::stop(cause, slot.release())),
            Err(fault) => return Err(fault),
        }
    }
}

/// The server's own notes on a slot change between majors, so only
/// columns that every supported one has.
const SLOT: &str = "select s.plugin::text, s.slot_type, s.database::text, s.active_pid, \
     coalesce(s.confirmed_flush_lsn, '0/0')::text, coalesce(s.wal_status, ''), coalesce(a.application_name, '') \
     from pg_replication_slots s left join pg_stat_activity a on a.pid = s.active_pid where s.slot_name = ";

#[derive(Clone, Debug)]
struct Slot {
    name: String,
    plugin: String,
    database: String,
    active_pid: Option<String>,
    confirmed: Lsn,
    wal_status: String,
    application: String,
}

impl Slot {
    async fn read(client: &Client, name: &str) -> Result<Option<Self>, Fault> {
        let messages = client.simple_query(&Self::query(name)).await.map_err(|error| client::fault(&error))?;
        let row = messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(row.map(|row| Self::of(name, |at| row.get(at).map(str::to_owned))))
    }

    fn query(name: &str) -> String {
        format!("{SLOT}{}", quote::literal(name))
    }

    fn of(name: &str, cell: impl Fn(usize) -> Option<String>) -> Self {
        let text = |at| cell(at).unwrap_or_default();
        Self {
            name: name.to_owned(),
            plugin: if text(1) == "logical" { text(0) } else { "none: it is physical".into() },
            database: text(2),
            active_pid: cell(3),
            confirmed: text(4).parse().unwrap_or_default(),
            wal_status: text(5),
            application: text(6),
        }
    }

    /// How somebody else's use of it is ended.
    fn release(&self) -> String {
        let pid = self.active_pid.as_deref().unwrap_or_default();
        format!("stop what reads it: {}; or use another one: LOCKSTEP_SLOT", remedy::terminate(pid))
    }

    /// Whether it is ours to stream from.
    fn judge(&self, database: &str) -> Result<(), Fault> {
        let name = &self.name;
        judge_kind(name, &self.plugin, &self.database, database)?;
        if self.wal_status == "lost" {
            return Err(lost_slot(name));
        }
        match &self.active_pid {
            Some(pid) => Err(in_use(name, pid, &self.application)),
            None => Ok(()),
        }
    }
}

/// Whether a slot of this plugin, in this database, can be ours.
pub(crate) fn judge_kind(name: &str, plugin: &str, its_database: &str, database: &str) -> Result<(), Fault> {
    let other = "choose another name for the slot, or drop this one if nobody needs it";
    let cause = match (plugin, its_database) {
        ("pgoutput", at) if at == database => return Ok(()),
        ("pgoutput", at) => format!("slot {name} belongs to database {at}, not to {database}"),
        (plugin, _) => format!("slot {name} exists with another plugin ({plugin})"),
    };
    Err(Fault::stop(cause, format!("{other}: {}", remedy::drop_slot(name))))
}

/// Before streaming: what the slot has on record, and that it still holds what comes after `resume`.
pub(super) struct Start {
    pub(super) confirmed: Lsn,
    /// None: the server has no such limit.
    pub(super) sender_timeout: Option<Duration>,
}

const SENDER_TIMEOUT: &str = "select setting, current_database() from pg_settings where name = 'wal_sender_timeout'";

pub(super) async fn look(connection: &mut Connection, want: &Settings, resume: Position) -> Result<Start, Fault> {
    let fault = |failure: Failure| failure.fault();
    let flushed = connection.identify().await.map_err(fault)?.flushed;
    // Whoever starts a stream looks at this first. Should it become so a moment later, the next start sees it.
    if resume.lsn() > flushed {
        return Err(Fault::retry(format!(
            "the checkpoint {resume} lies ahead of the source, whose WAL ends at {flushed}: it was restored"
        )));
    }
    let setting = connection.query(SENDER_TIMEOUT).await.map_err(fault)?;
    let cell = |at: usize| setting.first().and_then(|row| row.get(at).cloned().flatten()).unwrap_or_default();
    let millis: u64 = cell(0).parse().unwrap_or(0);
    let rows = connection.query(&Slot::query(&want.slot)).await.map_err(fault)?;
    let slot = rows
        .into_iter()
        .next()
        .map(|row| Slot::of(&want.slot, |at| row.get(at).cloned().flatten()))
        .ok_or_else(|| again(gone_slot(&want.slot)))?;
    if slot.wal_status == "lost" {
        return Err(again(lost_slot(&slot.name)));
    }
    slot.judge(&cell(1))?;
    // A route that begins has no checkpoint yet: it takes what the slot has.
    if resume > Position::default() && slot.confirmed > resume.lsn() {
        return Err(Fault::retry(format!("slot {} was moved to {}, past {resume}", slot.name, slot.confirmed)));
    }
    let sender_timeout = (millis > 0).then(|| Duration::from_millis(millis));
    Ok(Start { confirmed: slot.confirmed, sender_timeout })
}

/// An error of START_REPLICATION, or of the stream.
pub(super) fn start_fault(want: &Settings, failure: &Failure) -> Fault {
    let Failure::Refused { code, message, .. } = failure else { return failure.fault() };
    match code.as_str() {
        "55006" => Fault::retry(format!("slot {} is in use: {message}", want.slot)),
        // `look` has just seen the slot, so it is the publication: the stream reads the catalogs as they were at each
        // change, and one that was made later does not exist for it.
        "42704" => again(publication::gone(&want.slot, &want.publication)),
        "55000" if message.contains("wal_level") => wal_level("too low"),
        "55000" => again(lost_slot(&want.slot)),
        "58P01" => again(lost_slot(&want.slot)), // requested WAL segment has already been removed
        _ => failure.fault(),
    }
}

/// In mid-stream: the next start looks at both sides again, and finds the way back itself.
fn again(fault: Fault) -> Fault {
    match fault {
        Fault::Stop { cause, .. } => Fault::Retry { cause },
        other => other,
    }
}

/// It waits until every transaction that is open now has ended; `lock_timeout` bounds the wait.
async fn create(client: &Client, want: &Want<'_>, version: u32) -> Result<Lsn, Fault> {
    let command = remedy::create_slot(want.slot, version);
    if !want.create {
        return Err(Fault::stop(format!("the source has no replication slot {}", want.slot), command));
    }
    let statement = format!("select lsn::text from {}", &command["select ".len()..]);
    match client.query_one(&statement, &[]).await {
        Ok(row) => row.get::<_, String>(0).parse().map_err(|error| Fault::stop(error, "report this as a bug")),
        Err(error) => Err(match error.code().map(|code| code.code()) {
            Some("55P03") => waits(client, want.slot).await,
            Some("53400") => no_free_slot(client).await,
            Some("42710") => Fault::retry(format!("slot {} was created by somebody else just now", want.slot)),
            Some("42501") => Fault::stop(
                format!("the role may not create slot {}: {}", want.slot, client::fault(&error)),
                format!("{}; or, as a role that may: {command}", remedy::may_replicate(&current_user(client).await)),
            ),
            _ => client::fault(&error),
        }),
    }
}

async fn current_user(client: &Client) -> String {
    let row = client.query_one("select current_user::text", &[]).await;
    row.map_or_else(|_| "…".into(), |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        Slot {
            name: "lockstep".into(),
            plugin: "pgoutput".into(),
            database: "shop".into(),
            active_pid: None,
            confirmed: Lsn(1),
            wal_status: "reserved".into(),
            application: String::new(),
        }
    }

    #[test]
    fn only_our_own_free_and_living_slot_will_do() {
        assert_eq!(slot().judge("shop"), Ok(()));
        let lost = Slot { wal_status: "lost".into(), ..slot() }.judge("shop").unwrap_err().to_string();
        assert!(lost.contains("is lost") && lost.contains("pg_drop_replication_slot('lockstep')"), "{lost}");
        let used = Slot { active_pid: Some("42".into()), application: "other".into(), ..slot() };
        let used = used.judge("shop").unwrap_err();
        assert!(matches!(&used, Fault::Retry { cause } if cause.contains("pid 42 (other)")), "{used}");
    }

    #[test]
    fn a_failover_slot_is_asked_for_where_the_server_knows_them() {
        assert!(remedy::create_slot("a'b", 170_000).contains("'a''b', 'pgoutput', failover => true"));
        assert!(!remedy::create_slot("s", 160_000).contains("failover"));
    }
}
