//! Reads rows of the source again, by their keys, for changes that hold them only in part.

use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::copy::SEARCH_PATH;
use super::read::rows_of;
use crate::pg::{self, Client, Url, quote};
use crate::types::{Cell, Fault, Position, Read, Reread, Snapshot, Tuple, TupleBuilder};

/// A commit becomes visible within microseconds, mostly.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Answers until nobody asks any more. It connects only when there is something to ask.
pub async fn reread(url: &Url, mut wanted: mpsc::Receiver<Reread>) -> Result<(), Fault> {
    let mut client = None;
    while let Some(wish) = wanted.recv().await {
        let client = match &mut client {
            Some(client) => client,
            none => none.insert(session(url).await?),
        };
        let read = read(client, &wish).await?;
        let _ = wish.reply.send(read); // who asked may be gone; the next one asks again
    }
    Ok(())
}

/// A key whose type an extension brought is compared by that type's operator, which must be in sight.
async fn session(url: &Url) -> Result<Client, Fault> {
    let client = pg::connect(url, "lockstep reread").await?;
    client.query_one(SEARCH_PATH, &[]).await.map_err(|error| pg::client::fault(&error))?;
    Ok(client)
}

const LOOK: &str = "select c.relkind::text, format('%I.%I', n.nspname, c.relname), array(select coalesce(format_type(a.atttypid, -1), 'text') || \
       case when a.attcollation not in (0, 100) then ' collate ' || a.attcollation::regcollation else '' end \
     from unnest($2::text[]) with ordinality k (name, n) \
     left join pg_attribute a on a.attrelid = c.oid and a.attname = k.name and not a.attisdropped order by n) \
     from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = $1";

async fn read(client: &Client, wish: &Reread) -> Result<Read, Fault> {
    let fault = |error: tokio_postgres::Error| pg::client::fault(&error);
    let Some(look) = client.query_opt(LOOK, &[&wish.relation.oid, &wish.key]).await.map_err(fault)? else {
        let rows = Some(vec![None; wish.rows.len()]); // the table is gone, and its rows with it
        return Ok(Read { rows, at: wal_end(client).await? });
    };
    let (kind, name, types): (String, String, Vec<String>) = (look.get(0), look.get(1), look.get(2));
    let from = format!("{}{name}", if kind == "r" { "only " } else { "" });
    // COPY takes no parameters, but reads a setting.
    let keys = serde_json::to_string(&wish.rows).unwrap_or_default();
    client.execute("select set_config('lockstep.keys', $1, false)", &[&keys]).await.map_err(fault)?;
    let matches = wish.key.iter().zip(&types).enumerate();
    let matches = matches.map(|(k, (name, of))| format!("t.{} = (w.k->>{k})::{of}", quote::ident(name)));
    let columns = wish.relation.columns.iter().map(|column| format!(", t.{}", quote::ident(&column.name)));
    let sql = format!(
        "copy (select w.n{} from jsonb_array_elements(current_setting('lockstep.keys')::jsonb) with ordinality w (k, n) \
         join {from} t on {}) to stdout",
        columns.collect::<String>(),
        matches.collect::<Vec<_>>().join(" and "),
    );
    begin(client, &from, (&name, wish.relation.oid), &wish.xids).await?;
    let rows = rows(client, &sql, wish).await;
    client.batch_execute("commit").await.map_err(fault)?;
    Ok(Read { rows: rows?, at: wal_end(client).await? })
}

/// Behind everything that a snapshot before it saw.
async fn wal_end(client: &Client) -> Result<Position, Fault> {
    let row = client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await;
    let text: String = row.map_err(|error| pg::client::fault(&error))?.get(0);
    text.parse().map(Position::at).map_err(|cause: String| Fault::retry(cause))
}

/// Opens a snapshot that sees the transactions. One that waits for a synchronous standby is in the WAL, and hidden from
/// all others, for as long as that takes. The lock comes first: an ALTER that rewrites the table leaves nothing in it for a
/// snapshot that is older. By then the name may be another table's.
async fn begin(client: &Client, from: &str, (name, oid): (&str, u32), xids: &[u32]) -> Result<(), Fault> {
    let fault = |error: tokio_postgres::Error| pg::client::fault(&error);
    loop {
        let begin = format!("begin isolation level repeatable read, read only; lock table {from} in access share mode");
        client.batch_execute(&begin).await.map_err(fault)?;
        let look = "select pg_current_snapshot()::text, coalesce(to_regclass($1)::oid = $2, false)";
        let row = client.query_one(look, &[&name, &oid]).await.map_err(fault)?;
        if !row.get::<_, bool>(1) {
            return Err(Fault::retry(format!("{name} is another table now; both sides are looked at again")));
        }
        let snapshot: Snapshot = row.get::<_, String>(0).parse().map_err(|cause: String| Fault::retry(cause))?;
        if xids.iter().all(|&xid| snapshot.sees(xid)) {
            return Ok(());
        }
        client.batch_execute("commit").await.map_err(fault)?;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn rows(client: &Client, read: &str, wish: &Reread) -> Result<Option<Vec<Option<Tuple>>>, Fault> {
    let fault = |error: tokio_postgres::Error| pg::client::fault(&error);
    let mut stream = pin!(client.copy_out(read).await.map_err(fault)?);
    let (mut pending, mut lines) = (BytesMut::new(), Vec::new());
    let mut rows = vec![None; wish.rows.len()];
    let mut bytes = 0;
    while let Some(data) = stream.next().await {
        pending.extend_from_slice(&data.map_err(fault)?);
        rows_of(&mut pending, wish.relation.columns.len() + 1, &mut lines)?;
        for line in lines.drain(..) {
            let Some((place, row)) = apart(&line) else { continue };
            bytes += row.size();
            if let Some(found) = rows.get_mut(place) {
                *found = Some(row);
            }
        }
        if bytes > wish.most && rows.len() > 1 {
            return Ok(None);
        }
    }
    Ok(Some(rows))
}

/// The place of the key that found the row, and the row behind it.
fn apart(line: &Tuple) -> Option<(usize, Tuple)> {
    let mut cells = line.cells();
    let Some(Cell::Text(place)) = cells.next() else { return None };
    let place: usize = std::str::from_utf8(place).ok()?.parse().ok()?;
    let mut row = TupleBuilder::new();
    cells.for_each(|cell| row.push(cell));
    Some((place.checked_sub(1)?, row.finish()))
}
