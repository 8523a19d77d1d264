//! What is asked of the source to find a horizon: sql/source/journal.sql says why it is one.

use crate::pg::{Client, client};
use crate::types::{Fault, Lsn};

const LOOK: &str = "select pg_current_wal_insert_lsn()::text, \
     exists (select from lockstep.journal where n = 0 and lsn > $1::text::pg_lsn), \
     (extract(epoch from clock_timestamp()) * 1000000)::int8";
const FENCE: &str = "select upto::text, xid::text, passed, flushed, clock from lockstep.journal_fence()";
const PASSED: &str = "select passed, flushed, clock from lockstep.journal_passed($1::text::xid8)";
/// A commit that waits for the local disk: whatever committed before is there, too.
const FLUSH: &str = "select pg_logical_emit_message(true, 'lockstep.journal', '')::text";
const HOLDER: &str = "select coalesce((select format('pid %s (%s), open since %s', pid, application_name, xact_start) \
     from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid() \
     order by age(backend_xid) desc limit 1), \
     (select format('prepared transaction %s', gid) from pg_prepared_xacts order by prepared limit 1), 'nobody that is seen')";

/// What a look finds.
pub(super) struct Look {
    /// Where the WAL ends.
    pub(super) end: Lsn,
    /// The journal holds more.
    pub(super) more: bool,
    pub(super) clock: i64,
}

pub(super) struct Fence {
    pub(super) upto: Lsn,
    /// Whoever stands before has a smaller number.
    pub(super) xid: String,
    pub(super) now: Passed,
}

pub(super) struct Passed {
    /// All smaller numbers have ended.
    pub(super) passed: bool,
    /// What they wrote is on the source's disk.
    pub(super) flushed: bool,
    pub(super) clock: i64,
}

pub(super) async fn look(client: &Client, behind: Lsn) -> Result<Look, Fault> {
    let row = client.query_one(LOOK, &[&behind.to_string()]).await.map_err(db)?;
    Ok(Look { end: lsn(row.get(0))?, more: row.get(1), clock: row.get(2) })
}

pub(super) async fn fence(client: &Client) -> Result<Fence, Fault> {
    let row = client.query_one(FENCE, &[]).await.map_err(db)?;
    let now = Passed { passed: row.get(2), flushed: row.get(3), clock: row.get(4) };
    Ok(Fence { upto: lsn(row.get(0))?, xid: row.get(1), now })
}

pub(super) async fn passed(client: &Client, fence: &str) -> Result<Passed, Fault> {
    let row = client.query_one(PASSED, &[&fence]).await.map_err(db)?;
    Ok(Passed { passed: row.get(0), flushed: row.get(1), clock: row.get(2) })
}

pub(super) async fn flush(client: &Client) -> Result<(), Fault> {
    client.query_one(FLUSH, &[]).await.map(drop).map_err(db)
}

/// Who holds the horizon up.
pub(super) async fn holder(client: &Client) -> Result<String, Fault> {
    Ok(client.query_one(HOLDER, &[]).await.map_err(db)?.get(0))
}

pub(super) fn db(error: tokio_postgres::Error) -> Fault {
    client::fault(&error)
}

pub(super) fn lsn(text: &str) -> Result<Lsn, Fault> {
    text.parse().map_err(Fault::retry)
}
