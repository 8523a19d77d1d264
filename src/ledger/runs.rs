//! What Lockstep remembers in the source about its work: what each run compared and repaired, and which tables
//! somebody has set aside.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use tokio_postgres::Client;

use crate::pg::client::fault;
use crate::status::Verified;
use crate::types::{Fault, RunRow, TableName, TableReport};

const CREATE: &str = include_str!("../../sql/source/lockstep.sql");

/// The SQL that makes these tables.
pub fn create_sql() -> &'static str {
    CREATE
}

/// Rows of the history that are kept: a year of daily runs over fifty tables, or a day and a half of hourly runs over
/// five hundred. Some 200 bytes each.
const KEPT: i64 = 20_000;

const THERE: &str = "select to_regclass('lockstep.reconcile_run') is not null \
     and to_regclass('lockstep.paused') is not null";

/// Whether the tables are there.
pub async fn exist(client: &Client) -> Result<bool, Fault> {
    client.query_one(THERE, &[]).await.map(|row| row.get(0)).map_err(|error| fault(&error))
}

/// Makes the tables where they are missing and `create` allows.
pub async fn ensure(client: &Client, create: bool) -> Result<(), Fault> {
    if exist(client).await? {
        return Ok(());
    }
    let fix = format!("as the owner of the database, and grant all on both to Lockstep's role: {CREATE}");
    if !create {
        return Err(Fault::stop("the source has no tables lockstep.reconcile_run and lockstep.paused", fix));
    }
    client.batch_execute(CREATE).await.map_err(|error| match fault(&error) {
        Fault::Stop { cause, .. } => Fault::stop(format!("cannot make schema lockstep in the source: {cause}"), fix),
        other => other,
    })
}

/// Runs that were cut off with an earlier process are not running.
pub async fn close_old(client: &Client) -> Result<u64, Fault> {
    const CLOSE: &str = "update lockstep.reconcile_run set finished_at = clock_timestamp(), result = 'failed', \
         message = 'the service ended before the run did' where result = 'running'";
    client.execute(CLOSE, &[]).await.map_err(|error| fault(&error))
}

/// What was begun for this reason before, and not ended, was cut off.
pub async fn interrupted(client: &Client, why: &str) -> Result<(), Fault> {
    const CLOSE: &str = "update lockstep.reconcile_run set finished_at = clock_timestamp(), result = 'failed', \
         message = 'the route was interrupted' where result = 'running' and why = $1";
    client.execute(CLOSE, &[&why]).await.map(drop).map_err(|error| fault(&error))
}

/// Notes that a run of these tables begins.
pub async fn begin(client: &Client, job: &str, why: &str, repair: bool, tables: &[TableName]) -> Result<(), Fault> {
    const BEGIN: &str = "insert into lockstep.reconcile_run (job, why, repair, table_name) \
         select $1, $2, $3, unnest($4::text[])";
    let names: Vec<String> = tables.iter().map(TableName::to_string).collect();
    client.execute(BEGIN, &[&job, &why, &repair, &names]).await.map_err(|error| fault(&error))?;
    const PRUNE: &str =
        "delete from lockstep.reconcile_run where id <= (select max(id) from lockstep.reconcile_run) - $1";
    client.execute(PRUNE, &[&KEPT]).await.map_err(|error| fault(&error))?;
    Ok(())
}

/// Notes what became of one table.
pub async fn end(
    client: &Client,
    job: &str,
    report: &TableReport,
    result: &str,
    why: Option<&str>,
) -> Result<(), Fault> {
    const END: &str = "update lockstep.reconcile_run set finished_at = clock_timestamp(), result = $3, message = $4, \
         rows_compared = $5, missing = $6, different = $7, surplus = $8, unsettled = $9, inserted = $10, \
         updated = $11, deleted = $12, sent_bytes = $13, received_bytes = $14, requests = $15, seconds = $16 \
         where job = $1 and table_name = $2";
    let n = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let TableReport { rows, missing, different, surplus, unsettled, inserted, updated, deleted, .. } = report;
    let [rows, missing, different, surplus] = [rows, missing, different, surplus].map(|&x| n(x));
    let [unsettled, inserted, updated, deleted] = [unsettled, inserted, updated, deleted].map(|&x| n(x));
    let [sent, received, requests] = [report.sent_bytes, report.received_bytes, report.requests].map(n);
    let table = report.table.to_string();
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 16] = [
        &job,
        &table,
        &result,
        &why,
        &rows,
        &missing,
        &different,
        &surplus,
        &unsettled,
        &inserted,
        &updated,
        &deleted,
        &sent,
        &received,
        &requests,
        &report.seconds,
    ];
    client.execute(END, &values).await.map_err(|error| fault(&error))?;
    Ok(())
}

/// Notes why the rest of a run did not come to its end.
pub async fn fail(client: &Client, job: &str, why: &str) -> Result<(), Fault> {
    const FAIL: &str = "update lockstep.reconcile_run set finished_at = clock_timestamp(), result = 'failed', message = $2 \
         where job = $1 and result = 'running'";
    client.execute(FAIL, &[&job, &why]).await.map(drop).map_err(|error| fault(&error))
}

/// The newest runs first.
pub async fn list(client: &Client, limit: i64) -> Result<Vec<RunRow>, Fault> {
    const LIST: &str = "select (to_jsonb(r) - 'id')::text from lockstep.reconcile_run r order by id desc limit $1";
    let rows = client.query(LIST, &[&limit]).await.map_err(|error| fault(&error))?;
    let read = |row: &tokio_postgres::Row| {
        serde_json::from_str(row.get(0))
            .map_err(|error| Fault::retry(format!("a row of lockstep.reconcile_run: {error}")))
    };
    rows.iter().map(read).collect()
}

/// What the history says of the past, for a service that starts.
#[derive(Debug, Default)]
pub struct Past {
    /// When the schedule last began a run, by the reason that it gives.
    pub scheduled: BTreeMap<String, Timestamp>,
    /// Tables of which the last look found differences that nobody repaired, and how many. 0: copied over, unseen.
    pub different: BTreeMap<String, u64>,
    /// When a run last ended well.
    pub last_success: Option<Timestamp>,
    /// How the last look at each table ended.
    pub verified: BTreeMap<String, Verified>,
    /// When each table was last found or made equal.
    pub equal: BTreeMap<String, Timestamp>,
}

pub async fn past(client: &Client) -> Result<Past, Fault> {
    const SCHEDULED: &str = "select split_part(why, ', missed', 1), (extract(epoch from max(started_at)) * 1e6)::int8 \
         from lockstep.reconcile_run where why like 'schedule%' group by 1";
    const LAST: &str = "select distinct on (table_name) table_name, \
           result, case when message is null then greatest(missing + different + surplus, 1) else 0 end, \
           (extract(epoch from coalesce(finished_at, started_at)) * 1e6)::int8 \
         from lockstep.reconcile_run where result in ('equal', 'repaired', 'different') order by table_name, id desc";
    const SUCCESS: &str = "select (extract(epoch from max(finished_at)) * 1e6)::int8 from lockstep.reconcile_run \
         where result in ('equal', 'repaired')";
    const EQUAL: &str = "select table_name, (extract(epoch from max(finished_at)) * 1e6)::int8 \
         from lockstep.reconcile_run where result in ('equal', 'repaired') group by 1";
    let at = |micros: i64| Timestamp::from_microsecond(micros).ok();
    let mut past = Past::default();
    for row in client.query(SCHEDULED, &[]).await.map_err(|error| fault(&error))? {
        past.scheduled.extend(at(row.get(1)).map(|at| (row.get(0), at)));
    }
    for row in client.query(LAST, &[]).await.map_err(|error| fault(&error))? {
        if row.get::<_, String>(1) == "different" {
            past.different.insert(row.get(0), row.get::<_, i64>(2) as u64);
        }
        if let Some(at) = at(row.get(3)) {
            past.verified.insert(row.get(0), Verified { at, result: row.get(1) });
        }
    }
    for row in client.query(EQUAL, &[]).await.map_err(|error| fault(&error))? {
        past.equal.extend(row.get::<_, Option<i64>>(1).and_then(at).map(|at| (row.get(0), at)));
    }
    let row = client.query_one(SUCCESS, &[]).await.map_err(|error| fault(&error))?;
    past.last_success = row.get::<_, Option<i64>>(0).and_then(at);
    Ok(past)
}

/// Tables that somebody has set aside. None, where nobody ever could.
pub async fn paused(client: &Client) -> Result<BTreeSet<TableName>, Fault> {
    let there = client.query_one("select to_regclass('lockstep.paused') is not null", &[]).await;
    if !there.map_err(|error| fault(&error))?.get::<_, bool>(0) {
        return Ok(BTreeSet::new());
    }
    let rows = client.query("select schema_name, table_name from lockstep.paused", &[]).await;
    let rows = rows.map_err(|error| fault(&error))?;
    Ok(rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}

/// Sets a table aside, or lets it take part again.
pub async fn pause(client: &Client, table: &TableName, paused: bool) -> Result<(), Fault> {
    const PAUSE: &str = "insert into lockstep.paused (schema_name, table_name) values ($1, $2) on conflict do nothing";
    const RESUME: &str = "delete from lockstep.paused where schema_name = $1 and table_name = $2";
    let sql = if paused { PAUSE } else { RESUME };
    client.execute(sql, &[&table.schema, &table.name]).await.map(drop).map_err(|error| fault(&error))
}
