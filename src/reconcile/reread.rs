//! Reads single rows of the source again, for changes that hold them only in part.

use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::read::rows_of;
use crate::pg::{self, Client, Url, quote};
use crate::types::{Fault, Reread, Snapshot, Tuple};

/// A commit becomes visible within microseconds, mostly.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Answers until nobody asks any more. It connects only when there is something to ask.
pub async fn reread(url: &Url, mut wanted: mpsc::Receiver<Reread>) -> Result<(), Fault> {
    let mut client = None;
    while let Some(wish) = wanted.recv().await {
        let client = match &mut client {
            Some(client) => client,
            none => none.insert(pg::connect(url, "lockstep reread").await?),
        };
        let row = one(client, &wish).await?;
        let _ = wish.reply.send(row); // who asked may be gone; the next one asks again
    }
    Ok(())
}

const TYPES: &str = "select a.attname::text, format_type(a.atttypid, -1) from pg_attribute a \
                     where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped";

async fn one(client: &Client, wish: &Reread) -> Result<Option<Tuple>, Fault> {
    let fault = |error: tokio_postgres::Error| pg::client::fault(&error);
    let types = client.query(TYPES, &[&wish.relation.oid]).await.map_err(fault)?;
    let type_of = |name: &str| {
        let found = types.iter().find(|row| row.get::<_, &str>(0) == name);
        found.map_or_else(|| "text".to_owned(), |row| row.get(1))
    };
    let mut matches = Vec::new();
    for (at, (name, text)) in wish.key.iter().enumerate() {
        let setting = format!("lockstep.key_{at}");
        client.execute("select set_config($1, $2, false)", &[&setting, text]).await.map_err(fault)?;
        matches.push(format!("{} = current_setting('{setting}')::{}", quote::ident(name), type_of(name)));
    }
    let columns: Vec<String> = wish.relation.columns.iter().map(|column| quote::ident(&column.name)).collect();
    let table = quote::table(&wish.relation.name);
    let read = format!("copy (select {} from {table} where {}) to stdout", columns.join(", "), matches.join(" and "));
    begin(client, wish.xid).await?;
    let rows = rows(client, &read, columns.len()).await;
    client.batch_execute("commit").await.map_err(fault)?;
    Ok(rows?.pop())
}

/// Opens a snapshot that sees the transaction. One that waits for a synchronous standby is in the WAL, and hidden from
/// all others, for as long as that takes.
async fn begin(client: &Client, xid: Option<u32>) -> Result<(), Fault> {
    let fault = |error: tokio_postgres::Error| pg::client::fault(&error);
    loop {
        client.batch_execute("begin isolation level repeatable read, read only").await.map_err(fault)?;
        let row = client.query_one("select pg_current_snapshot()::text", &[]).await.map_err(fault)?;
        let snapshot: Snapshot = row.get::<_, String>(0).parse().map_err(|cause: String| Fault::retry(cause))?;
        if xid.is_none_or(|xid| snapshot.sees(xid)) {
            return Ok(());
        }
        client.batch_execute("commit").await.map_err(fault)?;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn rows(client: &Client, read: &str, columns: usize) -> Result<Vec<Tuple>, Fault> {
    let fault = |error: tokio_postgres::Error| pg::client::fault(&error);
    let mut stream = pin!(client.copy_out(read).await.map_err(fault)?);
    let mut pending = BytesMut::new();
    let mut rows = Vec::new();
    while let Some(data) = stream.next().await {
        pending.extend_from_slice(&data.map_err(fault)?);
        rows_of(&mut pending, columns, &mut rows)?;
    }
    Ok(rows)
}
