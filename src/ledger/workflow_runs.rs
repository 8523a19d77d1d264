//! Runs of workflows in the source: recorded once each, claimed in order, finished, replayed, forgotten. Every statement
//! that is run often reads an index of what is not finished, so that a long history costs nothing.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};
use tracing::warn;

use crate::pg::client::fault;
use crate::pg::quote;
use crate::types::{Fault, ReplayAsked, RunsAsked, TableName};

const CREATE: &str = include_str!("../../sql/source/workflow_run.sql");
const THERE: &str = "select to_regclass('lockstep.workflow_run') is not null \
     and to_regclass('lockstep.workflow_total') is not null";

/// The SQL that makes their tables.
pub fn create_sql() -> &'static str {
    CREATE
}

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
        return Err(Fault::stop("the source has no tables lockstep.workflow_run and lockstep.workflow_total", fix));
    }
    // Two of our connections may come here at a time; each statement of the script sees what was made before.
    let sql = format!("do $$ begin perform pg_advisory_xact_lock(hashtext('lockstep install')); end $$;\n{CREATE}");
    client.batch_execute(&sql).await.map_err(|error| match fault(&error) {
        Fault::Stop { cause, .. } => Fault::stop(format!("cannot make lockstep.workflow_run: {cause}"), fix),
        other => other,
    })
}

/// A firing, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRun {
    pub id: String,
    pub workflow_id: String,
    pub workflow_name: String,
    pub test: bool,
    pub side: &'static str,
    pub table: String,
    pub event: &'static str,
    /// A JSON list of texts.
    pub key: String,
    pub order_key: String,
    pub position: Option<String>,
    /// Microseconds since the Unix epoch.
    pub committed_at: Option<i64>,
    /// Shared: many workflows may act on one row.
    pub new: Option<Arc<str>>,
    pub old: Option<Arc<str>>,
    pub left_out: Vec<String>,
}

impl NewRun {
    fn bytes(&self) -> usize {
        self.new.as_deref().map_or(0, str::len) + self.old.as_deref().map_or(0, str::len) + self.key.len()
    }
}

/// So many in one statement, of ordinary rows; and of large ones no more than this and one, so that what is sent stays
/// small beside what is held.
const AT_ONCE: usize = 500;
const BYTES_AT_ONCE: usize = 8 << 20;

/// Records firings, in their order, all or none. One that is there already stays as it is. Says how many were new.
pub async fn record(client: &mut Client, runs: &[NewRun]) -> Result<u64, Fault> {
    const RECORD: &str = "insert into lockstep.workflow_run (id, workflow_id, workflow_name, test, side, table_name, \
           event, key, order_key, position, committed_at, new_row, old_row, left_out) \
         select n.id::uuid, workflow_id, name, test, side, tab, event, key::json, order_key::uuid, position, \
           'epoch'::timestamptz + committed * interval '1 microsecond', new::json, old::json, left_out::text[] \
         from unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::text[], $6::text[], $7::text[], $8::text[], \
           $9::text[], $10::text[], $11::int8[], $12::text[], $13::text[], $14::text[]) with ordinality \
           n (id, workflow_id, name, test, side, tab, event, key, order_key, position, committed, new, old, left_out, place) \
         order by place on conflict (id) do nothing";
    let transaction = client.transaction().await.map_err(|error| fault(&error))?;
    let (mut added, mut rest) = (0, runs);
    while !rest.is_empty() {
        let runs;
        (runs, rest) = rest.split_at(some(rest));
        let text = |of: fn(&NewRun) -> &str| runs.iter().map(of).collect::<Vec<&str>>();
        let maybe = |of: fn(&NewRun) -> Option<&str>| runs.iter().map(of).collect::<Vec<Option<&str>>>();
        let tests: Vec<bool> = runs.iter().map(|run| run.test).collect();
        let committed: Vec<Option<i64>> = runs.iter().map(|run| run.committed_at).collect();
        let left_out: Vec<String> = runs.iter().map(|run| array(&run.left_out)).collect();
        let values: [&(dyn ToSql + Sync); 14] = [
            &text(|run| &run.id),
            &text(|run| &run.workflow_id),
            &text(|run| &run.workflow_name),
            &tests,
            &text(|run| run.side),
            &text(|run| &run.table),
            &text(|run| run.event),
            &text(|run| &run.key),
            &text(|run| &run.order_key),
            &maybe(|run| run.position.as_deref()),
            &committed,
            &maybe(|run| run.new.as_deref()),
            &maybe(|run| run.old.as_deref()),
            &left_out,
        ];
        added += transaction.execute(RECORD, &values).await.map_err(|error| fault(&error))?;
    }
    transaction.commit().await.map_err(|error| fault(&error))?;
    Ok(added)
}

/// How many of them go into the next statement.
fn some(runs: &[NewRun]) -> usize {
    let mut bytes = 0;
    let fits = |run: &&NewRun| {
        let room = bytes < BYTES_AT_ONCE;
        bytes += run.bytes();
        room
    };
    runs.iter().take(AT_ONCE).take_while(fits).count().max(1)
}

/// The same, without those whose counterpart in `before` is there already.
pub async fn record_unless(client: &mut Client, runs: &[NewRun], before: &[String]) -> Result<u64, Fault> {
    const THERE: &str = "select id::text from lockstep.workflow_run where id = any($1::text[]::uuid[])";
    let rows = client.query(THERE, &[&before]).await.map_err(|error| fault(&error))?;
    let there: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let fresh = runs.iter().zip(before).filter(|(_, before)| !there.contains(before));
    let fresh: Vec<NewRun> = fresh.map(|(run, _)| run.clone()).collect();
    record(client, &fresh).await
}

/// A list of names as the text of an array: arrays of arrays of different lengths are none to Postgres.
fn array(names: &[String]) -> String {
    let quoted = |name: &String| format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
    format!("{{{}}}", names.iter().map(quoted).collect::<Vec<_>>().join(","))
}

/// A run that is to be delivered now.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub id: String,
    pub workflow_id: String,
    pub workflow_name: String,
    pub test: bool,
    pub side: String,
    pub table: String,
    pub event: String,
    pub key: String,
    pub committed_at: Option<String>,
    pub new: Option<String>,
    pub old: Option<String>,
    pub left_out: Vec<String>,
    /// This one included.
    pub attempts: i32,
}

/// Runs that were being delivered when an earlier process ended are delivered again.
pub async fn take_over(client: &Client) -> Result<u64, Fault> {
    const TAKE: &str = "update lockstep.workflow_run set state = 'waiting' where state = 'delivering'";
    client.execute(TAKE, &[]).await.map_err(|error| fault(&error))
}

/// Of those that were recorded since the last look: which come first in their order. Says how many were looked at.
pub async fn line_up(client: &Client) -> Result<u64, Fault> {
    const LINE_UP: &str = "update lockstep.workflow_run r set head = not exists (\
           select from lockstep.workflow_run e where e.order_key = r.order_key and e.state in ('waiting', 'delivering') \
           and e.id <> r.id and (e.seq < r.seq or e.head)) \
         where r.id in (select id from lockstep.workflow_run where head is null order by seq limit 1000)";
    client.execute(LINE_UP, &[]).await.map_err(|error| fault(&error))
}

/// Takes what is due of these workflows, at most so many of each and in all: `(id, room, enabled)`.
pub async fn claim(client: &Client, rooms: &[(String, i32, bool)], most: i64) -> Result<Vec<Claimed>, Fault> {
    const CLAIM: &str = "update lockstep.workflow_run r set state = 'delivering', attempts = r.attempts + 1 \
         where r.id in (select d.id from unnest($1::text[], $2::int[], $3::boolean[]) w (id, room, enabled) \
           cross join lateral (select c.id, c.next_at from lockstep.workflow_run c \
             where c.workflow_id = w.id and c.head and c.state = 'waiting' and c.next_at <= clock_timestamp() \
               and (w.enabled or c.test) order by c.next_at limit w.room) d order by d.next_at limit $4) \
         returning id::text, workflow_id, workflow_name, test, side, table_name, event, key::text, \
           to_jsonb(committed_at) #>> '{}', new_row::text, old_row::text, left_out, attempts";
    let ids: Vec<&str> = rooms.iter().map(|(id, _, _)| id.as_str()).collect();
    let room: Vec<i32> = rooms.iter().map(|(_, room, _)| *room).collect();
    let enabled: Vec<bool> = rooms.iter().map(|(_, _, enabled)| *enabled).collect();
    let rows = client.query(CLAIM, &[&ids, &room, &enabled, &most]).await.map_err(|error| fault(&error))?;
    Ok(rows.iter().map(claimed).collect())
}

fn claimed(row: &Row) -> Claimed {
    Claimed {
        id: row.get(0),
        workflow_id: row.get(1),
        workflow_name: row.get(2),
        test: row.get(3),
        side: row.get(4),
        table: row.get(5),
        event: row.get(6),
        key: row.get(7),
        committed_at: row.get(8),
        new: row.get(9),
        old: row.get(10),
        left_out: row.get(11),
        attempts: row.get(12),
    }
}

/// What became of one try.
#[derive(Clone, Debug, PartialEq)]
pub struct Tried {
    pub id: String,
    pub end: TryEnd,
    pub status: Option<i32>,
    pub latency_ms: i32,
    pub request: Option<Value>,
    pub answer: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TryEnd {
    Delivered,
    /// Once more after so many milliseconds.
    Again {
        error: String,
        wait_ms: i64,
    },
    Dead {
        error: String,
    },
}

/// Notes it, and lets the next of its order go ahead. What cannot be stored as it is, is stored without its details: one
/// odd run keeps no other from being delivered.
pub async fn finish(client: &Client, tried: &Tried) -> Result<(), Fault> {
    let fault = match note(client, tried).await {
        Err(fault @ Fault::Stop { .. }) => fault,
        other => return other,
    };
    let end = match &tried.end {
        TryEnd::Delivered => TryEnd::Delivered,
        _ => TryEnd::Dead { error: "its outcome cannot be stored".into() },
    };
    warn!(run = %tried.id, cause = %fault, "what became of a run of a workflow is stored without its details");
    note(client, &Tried { end, request: None, answer: None, ..tried.clone() }).await
}

async fn note(client: &Client, tried: &Tried) -> Result<(), Fault> {
    const AGAIN: &str = "update lockstep.workflow_run set state = 'waiting', error = $2, status_code = $3, \
           latency_ms = $4, request = $5::text::jsonb, answer = $6, \
           next_at = clock_timestamp() + $7 * interval '1 millisecond' \
         where id = $1::text::uuid and state = 'delivering'";
    const END: &str = "with done as (update lockstep.workflow_run set state = $7, head = false, error = $2, \
             status_code = $3, latency_ms = $4, request = $5::text::jsonb, answer = $6, \
             finished_at = clock_timestamp() \
           where id = $1::text::uuid and state = 'delivering' returning id, order_key, workflow_id), \
         total as (insert into lockstep.workflow_total as t (workflow_id, delivered) \
           select workflow_id, 1 from done where $7 = 'delivered' \
           on conflict (workflow_id) do update set delivered = t.delivered + 1) \
         update lockstep.workflow_run n set head = true where n.id = (\
           select e.id from done d join lockstep.workflow_run e on e.order_key = d.order_key \
           where e.state = 'waiting' and e.id <> d.id order by e.seq limit 1)";
    let Tried { id, end, status, latency_ms, request, answer } = tried;
    let request = request.as_ref().map(Value::to_string);
    let (sql, error, last): (&str, Option<&str>, &(dyn ToSql + Sync)) = match end {
        TryEnd::Again { error, wait_ms } => (AGAIN, Some(error), &(*wait_ms as f64)),
        TryEnd::Delivered => (END, None, &"delivered"),
        TryEnd::Dead { error } => (END, Some(error), &"dead"),
    };
    let values: [&(dyn ToSql + Sync); 7] = [id, &error, status, latency_ms, &request, answer, last];
    client.execute(sql, &values).await.map(drop).map_err(|error| fault(&error))
}

/// Runs of workflows that are there no more have nobody to say what is to be done.
/// One statement looks at both tables at one instant: who sees a run sees the workflow that was there before it.
pub async fn orphans(client: &Client, workflows: &TableName) -> Result<u64, Fault> {
    let orphans = format!(
        "update lockstep.workflow_run set state = 'dead', head = false, error = 'its workflow was deleted', \
           finished_at = clock_timestamp() \
         where id in (select r.id from lockstep.workflow_run r where r.state = 'waiting' \
           and not exists (select from {} w where w.id::text = r.workflow_id) limit 1000)",
        quote::table(workflows)
    );
    client.execute(&orphans, &[]).await.map_err(|error| fault(&error))
}

/// Gives claimed runs back as they were: their workflow was switched off a moment ago.
pub async fn put_back(client: &Client, ids: &[&str]) -> Result<(), Fault> {
    const BACK: &str = "update lockstep.workflow_run set state = 'waiting', attempts = attempts - 1 \
         where id = any($1::text[]::uuid[]) and state = 'delivering'";
    client.execute(BACK, &[&ids]).await.map(drop).map_err(|error| fault(&error))
}

/// Forgets what was finished longer ago than this; says how many. A run whose change `slot` has not confirmed stays: the
/// source may send that change again, and only its run knows that it led to one. (A place beyond the end of the WAL is
/// of another source, which this one was restored from.)
pub async fn forget(client: &Client, seconds: i64, slot: &str) -> Result<u64, Fault> {
    const FORGET: &str = "delete from lockstep.workflow_run where id in (\
         with may_come as materialized (select pg_current_wal_insert_lsn() as upto, \
           coalesce((select confirmed_flush_lsn from pg_replication_slots where slot_name = $2), '0/0') as since) \
         select r.id from lockstep.workflow_run r, may_come \
         where r.state in ('delivered', 'dead') and r.finished_at < clock_timestamp() - $1 * interval '1 second' \
           and (case when r.position ~ '^[0-9A-F]{1,8}/[0-9A-F]{1,8}[+]' then split_part(r.position, '+', 1)::pg_lsn end \
             between since and upto) is not true limit 5000)";
    client.execute(FORGET, &[&(seconds as f64), &slot]).await.map_err(|error| fault(&error))
}

/// What is not finished.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open {
    pub waiting: i64,
    /// Seconds since the oldest that is not finished was recorded.
    pub oldest: f64,
}

/// More than this are not counted one by one.
const COUNTED: i64 = 100_000;

/// The oldest of these workflows, which are on: runs of one that is off wait because somebody wants them to.
pub async fn open(client: &Client, on: &[&str]) -> Result<Open, Fault> {
    const OPEN: &str = "select (select count(*) from (select from lockstep.workflow_run \
             where state in ('waiting', 'delivering') limit $1) w), \
           coalesce((select extract(epoch from clock_timestamp() - min(created_at)) from (\
             select created_at from lockstep.workflow_run where state in ('waiting', 'delivering') \
               and workflow_id = any($2) limit $1) o), 0)::float8";
    let row = client.query_one(OPEN, &[&COUNTED, &on]).await.map_err(|error| fault(&error))?;
    Ok(Open { waiting: row.get(0), oldest: row.get(1) })
}

/// How many of these workflows were given up. A run of one that is gone, or a test that failed before somebody's eyes,
/// waits for nobody. It reads each of them, which no index spares: not for every second.
pub async fn dead(client: &Client, workflows: &[&str]) -> Result<i64, Fault> {
    const DEAD: &str = "select count(*) from (select from lockstep.workflow_run where state = 'dead' and not test \
         and workflow_id = any($2) limit $1) d";
    client.query_one(DEAD, &[&COUNTED, &workflows]).await.map(|row| row.get(0)).map_err(|error| fault(&error))
}

/// What a list of runs says of each.
const SHOWN: &str = "json_build_object('id', r.id, 'workflow_id', r.workflow_id, 'workflow_name', r.workflow_name, \
     'test', r.test, 'side', r.side, 'table', r.table_name, 'event', r.event, 'key', r.key, 'state', r.state, \
     'attempts', r.attempts, 'created_at', r.created_at, 'finished_at', r.finished_at, \
     'next_at', case when r.state = 'waiting' then r.next_at end, 'status_code', r.status_code, \
     'latency_ms', r.latency_ms, 'error', r.error)";

/// A page of them, the newest first, and the cursor of the next page.
pub async fn list(client: &Client, asked: &RunsAsked) -> Result<Value, Fault> {
    let sql = format!(
        "select r.seq, {SHOWN}::text from lockstep.workflow_run r \
         where ($1::text is null or r.workflow_id = $1) and ($2::int8 is null or r.seq < $2) {} \
         order by r.seq desc limit $3",
        match asked.state.as_deref() {
            Some("waiting") => "and r.state = 'waiting'",
            Some("delivering") => "and r.state = 'delivering'",
            Some("delivered") => "and r.state = 'delivered'",
            Some("dead") => "and r.state = 'dead'",
            _ => "",
        }
    );
    // A plan for the values at hand: with no workflow given, a generic one would not use the order of `seq`.
    let limit = i64::from(asked.limit);
    let rows = client.query(&sql, &[&asked.workflow, &asked.before, &(limit + 1)]).await;
    let rows = rows.map_err(|error| fault(&error))?;
    let more = rows.len() as i64 > limit;
    let rows = &rows[..rows.len().min(asked.limit as usize)];
    let next = more.then(|| rows.last().map(|row| row.get::<_, i64>(0).to_string())).flatten();
    Ok(json!({"runs": rows.iter().map(|row| shown(row, 1)).collect::<Vec<_>>(), "next": next}))
}

fn shown(row: &Row, at: usize) -> Value {
    row.get::<_, Option<&str>>(at).and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null)
}

/// One run with its rows, what was sent last and what came back.
pub async fn get(client: &Client, id: &str) -> Result<Option<Value>, Fault> {
    let sql = format!(
        "select {SHOWN}::text, jsonb_build_object('position', r.position, 'committed_at', r.committed_at, \
           'left_out', r.left_out, 'request', r.request, 'answer', r.answer)::text, r.new_row::text, r.old_row::text \
         from lockstep.workflow_run r where r.id = $1::text::uuid"
    );
    if !is_uuid(id) {
        return Ok(None);
    }
    let row = client.query_opt(&sql, &[&id]).await.map_err(|error| fault(&error))?;
    Ok(row.map(|row| {
        let mut run = shown(&row, 0);
        if let (Value::Object(run), Value::Object(more)) = (&mut run, shown(&row, 1)) {
            run.extend(more);
            // Rows as they are: jsonb refuses some JSON, and a text says more of what nests too deep than nothing does.
            for (name, at) in [("new", 2), ("old", 3)] {
                let json = row.get::<_, Option<&str>>(at);
                let value = json.map(|json| serde_json::from_str(json).unwrap_or_else(|_| json.into()));
                run.insert(name.into(), value.unwrap_or(Value::Null));
            }
        }
        run
    }))
}

/// Puts runs at the end of the line again; says how many. Those that wait or are on their way stay.
pub async fn replay(client: &Client, asked: &ReplayAsked) -> Result<u64, Fault> {
    let which = match asked.workflow {
        Some(_) => "workflow_id = $1 and state = $2",
        None => "id = any($1::text[]::uuid[]) and state in ('delivered', 'dead')",
    };
    let sql = format!(
        "with chosen as (select id from lockstep.workflow_run \
           where {which} order by seq limit 10000), \
         placed as (select id, nextval(pg_get_serial_sequence('lockstep.workflow_run', 'seq')) as seq from (\
           select c.id from chosen c join lockstep.workflow_run r using (id) order by r.seq) s) \
         update lockstep.workflow_run r set state = 'waiting', head = null, attempts = 0, seq = p.seq, \
           next_at = clock_timestamp(), finished_at = null from placed p where r.id = p.id"
    );
    let state = asked.state.as_deref().unwrap_or("dead");
    let ids: Vec<&str> = asked.ids.iter().map(String::as_str).filter(|id| is_uuid(id)).collect();
    let done = match &asked.workflow {
        Some(workflow) => client.execute(&sql, &[workflow, &state]).await,
        None => client.execute(&sql, &[&ids]).await,
    };
    done.map_err(|error| fault(&error))
}

/// As we write them: whatever else people ask for is not there.
fn is_uuid(text: &str) -> bool {
    let place = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(place)
}

/// Of each workflow: how many were delivered, wait, are dead, and the newest one.
pub async fn tallies(client: &Client, workflows: &[String]) -> Result<Vec<Tally>, Fault> {
    let sql = format!(
        "select w.id, coalesce((select delivered from lockstep.workflow_total t where t.workflow_id = w.id), 0), \
           (select count(*) from (select from lockstep.workflow_run o where o.state in ('waiting', 'delivering') \
              and o.workflow_id = w.id limit $2) o), \
           (select count(*) from (select from lockstep.workflow_run d where d.state = 'dead' \
              and d.workflow_id = w.id limit $2) d), \
           (select {SHOWN}::text from lockstep.workflow_run r where r.workflow_id = w.id order by r.seq desc limit 1) \
         from unnest($1::text[]) w (id)"
    );
    let rows = client.query(&sql, &[&workflows, &COUNTED]).await.map_err(|error| fault(&error))?;
    let tally = |row: &Row| Tally {
        workflow: row.get(0),
        delivered: row.get(1),
        waiting: row.get(2),
        dead: row.get(3),
        last: shown(row, 4),
    };
    Ok(rows.iter().map(tally).collect())
}

#[derive(Clone, Debug)]
pub struct Tally {
    pub workflow: String,
    pub delivered: i64,
    pub waiting: i64,
    pub dead: i64,
    pub last: Value,
}

/// The rows of the newest real run for a change of this kind: `(key, new, old)`.
pub async fn recent(
    client: &Client,
    table: &str,
    event: &str,
    side: &str,
) -> Result<Option<(String, Option<String>, Option<String>)>, Fault> {
    const RECENT: &str = "select key::text, new_row::text, old_row::text from (\
           select * from lockstep.workflow_run order by seq desc limit 1000) r \
         where table_name = $1 and event = $2 and side = $3 and not test order by seq desc limit 1";
    let row = client.query_opt(RECENT, &[&table, &event, &side]).await.map_err(|error| fault(&error))?;
    Ok(row.map(|row| (row.get(0), row.get(1), row.get(2))))
}
