//! What the `tables` way remembers, in the source: whose copy the target is, and how far the first copy of each table
//! got. The checkpoint is the slot's own: what was confirmed is in the target, and a slot outlives every crash.
//!
//! It is written when a route begins and during a first copy, never while changes stream: each write would be news to
//! the stream.

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::pg::client::fault;
use crate::pg::quote;
use crate::types::{CopyMark, Fault, Lsn, Position, TableName};

/// What is known of a route.
#[derive(Debug, Default)]
pub struct Progress {
    /// It has begun: rows in the target may be ours.
    pub begun: bool,
    pub source: Value,
    /// Everything up to here is in the target.
    pub checkpoint: Position,
    pub copies: Vec<Copied>,
}

#[derive(Debug)]
pub struct Copied {
    pub table: TableName,
    /// The table that was copied: another one of the same name is not.
    pub oid: Option<u32>,
    pub cursor: Option<Vec<String>>,
    pub done: bool,
    pub rows: u64,
}

/// Looked for first: a role without the right to create is let go on with what somebody else made.
const THERE: &str = "select to_regclass('lockstep.route_copy') is not null";
const INSTALL: &str = "
do $$ begin
  -- `if not exists` asks for the right to create one, even where it is there.
  if to_regnamespace('lockstep') is null then
    create schema lockstep;
  end if;
end $$;
create table if not exists lockstep.route (
  route text primary key,
  source jsonb not null,                 -- which history it is: system identifier, slot, timeline
  updated_at timestamptz not null default now()
);
create table if not exists lockstep.route_copy (
  route text not null,
  schema_name text not null,
  table_name text not null,
  source_oid bigint,
  cursor jsonb,                          -- the last key of the last range that arrived
  done boolean not null default false,
  rows bigint not null default 0,
  updated_at timestamptz not null default now(),
  primary key (route, schema_name, table_name)
);";

async fn install(client: &Client) -> Result<(), Fault> {
    let there = client.query_one(THERE, &[]).await.map_err(|error| fault(&error))?;
    if there.get(0) {
        return Ok(());
    }
    let refused = |role: &str| {
        let role = quote::ident(role);
        Fault::stop(
            "the role may not keep Lockstep's progress in the source, which apply way `tables` needs",
            format!("at the source, as owner of the database: create schema lockstep authorization {role};"),
        )
    };
    match client.batch_execute(INSTALL).await {
        Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE) => {
            let role = client.query_one("select current_user::text", &[]).await.map_err(|error| fault(&error))?;
            Err(refused(role.get(0)))
        }
        done => done.map_err(|error| fault(&error)),
    }
}

const ROUTE: &str = "select source::text from lockstep.route where route = $1";
const CONFIRMED: &str = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1";
const COPIES: &str =
    "select schema_name, table_name, cursor::text, done, rows, source_oid from lockstep.route_copy where route = $1";

/// Reads what is known; all of it is made when it is not there.
pub async fn read(client: &Client, route: &str, slot: &str) -> Result<Progress, Fault> {
    install(client).await?;
    let db = |error: tokio_postgres::Error| fault(&error);
    let Some(known) = client.query_opt(ROUTE, &[&route]).await.map_err(db)? else { return Ok(Progress::default()) };
    let source: Value = serde_json::from_str(known.get(0)).unwrap_or_default();
    // Killed before it had begun: only meant to.
    if source == json!({}) {
        return Ok(Progress::default());
    }
    let confirmed = client.query_opt(CONFIRMED, &[&slot]).await.map_err(db)?;
    let confirmed = confirmed.and_then(|row| row.get::<_, Option<String>>(0)).and_then(|text| text.parse::<Lsn>().ok());
    // Begun, and no slot any more: any position but the first one says that something is lost.
    let checkpoint = confirmed.map_or(Position { major: 1, minor: 0 }, Position::at);
    let rows = client.query(COPIES, &[&route]).await.map_err(db)?;
    let copies = rows.iter().map(|row| Copied {
        table: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
        cursor: row.get::<_, Option<&str>>(2).and_then(|text| serde_json::from_str(text).ok()),
        done: row.get(3),
        rows: row.get::<_, i64>(4) as u64,
        oid: row.get::<_, Option<i64>>(5).and_then(|oid| u32::try_from(oid).ok()),
    });
    Ok(Progress { begun: true, source, checkpoint, copies: copies.collect() })
}

const HERE: &str = "select to_regclass('lockstep.route') is not null";
const SLOT: &str = "select exists (select from pg_replication_slots where slot_name = $1)";

/// Whether the slot has been read while its progress was not kept here: then the target keeps it, by the `rpc` way.
pub async fn elsewhere(client: &Client, route: &str, slot: &str) -> Result<bool, Fault> {
    let db = |error: tokio_postgres::Error| fault(&error);
    let here: bool = client.query_one(HERE, &[]).await.map_err(db)?.get(0);
    if here && client.query_opt(ROUTE, &[&route]).await.map_err(db)?.is_some() {
        return Ok(false);
    }
    Ok(client.query_one(SLOT, &[&slot]).await.map_err(db)?.get(0))
}

const WAL_END: &str = "select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() \
                       else pg_current_wal_insert_lsn() end::text";

/// Where the source's WAL ends now.
pub async fn wal_end(client: &Client) -> Result<Position, Fault> {
    let row = client.query_one(WAL_END, &[]).await.map_err(|error| fault(&error))?;
    row.get::<_, String>(0).parse().map(Position::at).map_err(|cause: String| Fault::retry(cause))
}

const INTEND: &str = "insert into lockstep.route (route, source) values ($1, '{}') on conflict do nothing";

/// Notes that the route is about to begin this way, before its slot is made: a kill between the two must not look as if
/// another way had made the slot.
pub async fn intend(client: &Client, route: &str) -> Result<(), Fault> {
    install(client).await?;
    client.execute(INTEND, &[&route]).await.map(drop).map_err(|error| fault(&error))
}

/// Another way keeps the progress from now on: what is remembered here would be older.
pub async fn forget(client: &Client, route: &str) -> Result<(), Fault> {
    let db = |error: tokio_postgres::Error| fault(&error);
    let there: bool = client.query_one(THERE, &[]).await.map_err(db)?.get(0);
    if !there || client.query_opt(ROUTE, &[&route]).await.map_err(db)?.is_none() {
        return Ok(());
    }
    // The route's own line goes last: it says that there is something to forget.
    client.execute("delete from lockstep.route_copy where route = $1", &[&route]).await.map_err(db)?;
    client.execute("delete from lockstep.route where route = $1", &[&route]).await.map(drop).map_err(db)
}

const BEGIN: &str = "insert into lockstep.route (route, source) values ($1, $2::text::jsonb) \
     on conflict (route) do update set source = excluded.source, updated_at = now()";
const BEGIN_COPY: &str = "insert into lockstep.route_copy (route, schema_name, table_name) \
     select $1, * from unnest($2::text[], $3::text[]) on conflict do nothing";
/// A table that is not replicated any more misses changes from now on.
const LEAVE_OUT: &str = "delete from lockstep.route_copy c where route = $1 and not exists (\
     select from unnest($2::text[], $3::text[]) t (s, n) where t.s = c.schema_name and t.n = c.table_name)";
const RESTART: &str = "update lockstep.route_copy set done = false, cursor = null, rows = 0 where route = $1";

/// Notes that the route runs with these tables; `restart`: none of them counts as copied any more.
pub async fn begin(
    client: &Client,
    route: &str,
    source: &Value,
    tables: &[TableName],
    restart: bool,
) -> Result<(), Fault> {
    let db = |error: tokio_postgres::Error| fault(&error);
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    client.execute(BEGIN, &[&route, &source.to_string()]).await.map_err(db)?;
    client.execute(LEAVE_OUT, &[&route, &schemas, &names]).await.map_err(db)?;
    client.execute(BEGIN_COPY, &[&route, &schemas, &names]).await.map_err(db)?;
    if restart {
        client.execute(RESTART, &[&route]).await.map_err(db)?;
    }
    Ok(())
}

const AGAIN: &str = "update lockstep.route_copy c set done = false, cursor = null, rows = 0 \
     where route = $1 and exists (select from unnest($2::text[], $3::text[]) t (s, n) \
     where t.s = c.schema_name and t.n = c.table_name)";

/// Notes that these tables miss changes from now on.
pub async fn again(client: &Client, route: &str, tables: &[TableName]) -> Result<(), Fault> {
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    client.execute(AGAIN, &[&route, &schemas, &names]).await.map_err(|error| fault(&error))?;
    Ok(())
}

const SAVE: &str = "insert into lockstep.route_copy as c \
     (route, schema_name, table_name, source_oid, cursor, done, rows, updated_at) \
     values ($1, $2, $3, $4, $5::text::jsonb, $6, $7, clock_timestamp()) \
     on conflict (route, schema_name, table_name) do update set source_oid = excluded.source_oid, \
     cursor = excluded.cursor, done = excluded.done, rows = excluded.rows, updated_at = excluded.updated_at";

/// Stores how far a first copy got; its rows are in the target.
pub async fn save(client: &Client, route: &str, mark: &CopyMark) -> Result<(), Fault> {
    let cursor = serde_json::to_string(&mark.cursor).unwrap_or_default(); // texts: JSON holds them
    let (oid, rows) = (i64::from(mark.oid), mark.rows as i64);
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
        [&route, &mark.table.schema, &mark.table.name, &oid, &cursor, &mark.done, &rows];
    client.execute(SAVE, &values).await.map_err(|error| fault(&error))?;
    Ok(())
}
