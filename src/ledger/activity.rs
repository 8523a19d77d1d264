//! The time line in the source: what people, scripts, the schedule and the service itself did.

use tokio_postgres::Client;

use crate::pg::client::fault;
use crate::types::{Activity, Entry, Fault};

const CREATE: &str = include_str!("../../sql/source/activity.sql");

/// The SQL that makes the table.
pub fn create_sql() -> &'static str {
    CREATE
}

/// Lines that are kept, and how long: who looks for what happened a quarter ago looks into the log. Some 200 bytes each.
const KEPT: i64 = 50_000;
const DAYS: i32 = 90;

pub async fn exists(client: &Client) -> Result<bool, Fault> {
    const THERE: &str = "select to_regclass('lockstep.activity') is not null";
    client.query_one(THERE, &[]).await.map(|row| row.get(0)).map_err(|error| fault(&error))
}

/// Makes the table where it is missing and `create` allows.
pub async fn ensure(client: &Client, create: bool) -> Result<(), Fault> {
    if exists(client).await? {
        return Ok(());
    }
    if !create {
        let fix = format!("as the owner of the database, and grant all on it to Lockstep's role: {CREATE}");
        return Err(Fault::stop("the source has no table lockstep.activity", fix));
    }
    client.batch_execute(CREATE).await.map_err(|error| fault(&error))
}

/// Writes lines down, all or none.
pub async fn write(client: &Client, lines: &[Activity]) -> Result<(), Fault> {
    const WRITE: &str = "insert into lockstep.activity (at, kind, who, what, table_name, detail) \
         select to_timestamp(at::float8 / 1e6), kind, who, what, table_name, detail \
         from unnest($1::int8[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) \
           with ordinality as line (at, kind, who, what, table_name, detail, n) order by n";
    let at: Vec<i64> = lines.iter().map(|line| line.at.as_microsecond()).collect();
    let column = |of: fn(&Activity) -> &str| lines.iter().map(of).collect::<Vec<&str>>();
    let kind = column(|line| &line.kind);
    let who = column(|line| &line.who);
    let what = column(|line| &line.what);
    let table: Vec<Option<&str>> = lines.iter().map(|line| line.table.as_deref()).collect();
    let detail: Vec<Option<&str>> = lines.iter().map(|line| line.detail.as_deref()).collect();
    let written = client.execute(WRITE, &[&at, &kind, &who, &what, &table, &detail]).await;
    written.map(drop).map_err(|error| fault(&error))
}

/// Takes away what nobody looks for any more.
pub async fn prune(client: &Client) -> Result<(), Fault> {
    const PRUNE: &str = "delete from lockstep.activity where at < now() - make_interval(days => $2) \
         or id <= (select max(id) from lockstep.activity) - $1";
    client.execute(PRUNE, &[&KEPT, &DAYS]).await.map(drop).map_err(|error| fault(&error))
}

/// The newest lines first, those before the line `before`.
pub async fn list(client: &Client, kind: Option<&str>, before: Option<i64>, limit: i64) -> Result<Vec<Entry>, Fault> {
    const LIST: &str = "select (to_jsonb(a) - 'table_name' || jsonb_build_object('table', table_name))::text \
         from lockstep.activity a where ($1::text is null or kind = $1) and ($2::int8 is null or id < $2) \
         order by id desc limit $3";
    let rows = client.query(LIST, &[&kind, &before, &limit]).await.map_err(|error| fault(&error))?;
    let read = |row: &tokio_postgres::Row| {
        serde_json::from_str(row.get(0)).map_err(|error| Fault::retry(format!("a row of lockstep.activity: {error}")))
    };
    rows.iter().map(read).collect()
}
