//! Reads one range of a table, in key order, as text: what the output functions write is what the WAL's decoder sends.

use std::pin::pin;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;

use crate::pg::{self, Client, quote};
use crate::types::{Cell, Fault, Relation, RelationColumn, Snapshot, Table, Tuple, TupleBuilder};

pub struct Reader<'a> {
    client: &'a Client,
    table: &'a Table,
    pub relation: Arc<Relation>,
    /// `only` for an ordinary table: rows of children that inherit from it are theirs.
    only: &'static str,
    /// How many rows the next range has at most: follows the size of the rows seen.
    limit: u64,
    target_bytes: usize,
    /// Halved each time that a range had to be read again.
    most: u64,
}

pub struct Read {
    pub rows: Vec<Tuple>,
    pub snapshot: Snapshot,
    /// Key of the last row, `None` when there was no row.
    pub last_key: Option<Vec<String>>,
    /// Nothing lies behind it.
    pub is_last: bool,
}

/// Rows of the first range, before their size is known: even at 1 MB each they fit into memory.
const FIRST_ROWS: u64 = 64;
/// Most rows of a range, however small they are: bounds what the pipeline merges at once.
const MOST_ROWS: u64 = 50_000;

/// A range may be this much larger than wanted before it is cut short.
const MOST_OVER: usize = 4;

const KIND: &str = "select relkind::text from pg_class where oid = $1";

impl<'a> Reader<'a> {
    pub async fn new(client: &'a Client, table: &'a Table, target_bytes: usize) -> Result<Self, Fault> {
        let kind = client.query_opt(KIND, &[&table.oid]).await.map_err(|e| pg::client::fault(&e))?;
        let kind: String = kind.map(|row| row.get(0)).unwrap_or_default();
        let only = if kind == "r" { "only" } else { "" };
        let relation = Arc::new(relation(table));
        Ok(Self { client, table, relation, only, limit: FIRST_ROWS, target_bytes, most: MOST_ROWS })
    }

    /// Reads what lies behind the cursor.
    pub async fn read(&mut self, cursor: &[String]) -> Result<Read, Fault> {
        let fault = |e: tokio_postgres::Error| pg::client::fault(&e);
        // The cursor travels as parameters into settings that the COPY reads: COPY itself takes none.
        for (at, value) in cursor.iter().enumerate() {
            let name = format!("lockstep.after_{at}");
            self.client.execute("select set_config($1, $2, false)", &[&name, value]).await.map_err(fault)?;
        }
        // One statement's snapshot would do, but the numbers it is made of must be those of the read. The lock comes
        // first: an ALTER that rewrites the table leaves nothing in it for a snapshot that is older.
        let begin = format!(
            "begin isolation level repeatable read, read only; lock table {} {} in access share mode",
            self.only,
            quote::table(&self.table.name)
        );
        self.client.batch_execute(&begin).await.map_err(fault)?;
        let read = self.within(cursor).await;
        self.client.batch_execute("commit").await.map_err(fault)?;
        let read = read?;
        let bytes: usize = read.rows.iter().map(Tuple::size).sum();
        if let Some(average) = bytes.checked_div(read.rows.len()) {
            // At most fourfold: one range of small rows says little about the next.
            let fitting = (self.target_bytes / average.max(1)) as u64;
            self.limit = fitting.clamp(1, self.most).min(self.limit * 4);
            self.most = (self.most * 2).min(MOST_ROWS); // trouble passes
        }
        Ok(read)
    }

    /// The next ranges are smaller.
    pub fn shrink(&mut self) {
        self.most = (self.most.min(self.limit) / 2).max(1);
        self.limit = self.limit.min(self.most);
    }

    async fn within(&self, cursor: &[String]) -> Result<Read, Fault> {
        let fault = |e: tokio_postgres::Error| pg::client::fault(&e);
        let look = "select pg_current_snapshot()::text, coalesce(to_regclass($1)::oid = $2, false)";
        let row =
            self.client.query_one(look, &[&quote::table(&self.table.name), &self.table.oid]).await.map_err(fault)?;
        if !row.get::<_, bool>(1) {
            return Err(Fault::retry(format!(
                "{} is another table now; both sides are looked at again",
                self.table.name
            )));
        }
        let snapshot = row.get::<_, String>(0).parse().map_err(|cause: String| Fault::retry(cause))?;
        let limit = self.limit;
        let stream = self.client.copy_out(&self.statement(!cursor.is_empty(), limit)).await.map_err(fault)?;
        let mut stream = pin!(stream);
        let mut rows = Vec::with_capacity(limit as usize);
        let mut pending = BytesMut::new();
        let (mut bytes, mut cut) = (0, false);
        while let Some(data) = stream.next().await {
            pending.extend_from_slice(&data.map_err(fault)?);
            let before = rows.len();
            rows_of(&mut pending, self.relation.columns.len(), &mut rows)?;
            bytes += rows[before..].iter().map(Tuple::size).sum::<usize>();
            if bytes > self.target_bytes.saturating_mul(MOST_OVER) {
                // These rows are much larger than the ones before them: the rest is for the next range.
                cut = true;
                break;
            }
        }
        let last_key = rows.last().map(|row| self.key(row)).transpose()?;
        Ok(Read { is_last: !cut && (rows.len() as u64) < limit, rows, snapshot, last_key })
    }

    fn statement(&self, after: bool, limit: u64) -> String {
        let columns =
            |names: &mut dyn Iterator<Item = &String>| names.map(|n| quote::ident(n)).collect::<Vec<_>>().join(", ");
        let all = columns(&mut self.table.columns.iter().map(|column| &column.name));
        let key = columns(&mut self.table.key.iter());
        let behind = if after {
            let bounds: Vec<String> = self
                .table
                .key
                .iter()
                .enumerate()
                .map(|(at, name)| {
                    let of = self.table.columns.iter().find(|column| &column.name == name);
                    format!("current_setting('lockstep.after_{at}')::{}", of.map_or("text", |column| &column.type_name))
                })
                .collect();
            format!("where ({key}) > ({})", bounds.join(", "))
        } else {
            String::new()
        };
        let table = quote::table(&self.table.name);
        format!("copy (select {all} from {} {table} {behind} order by {key} limit {limit}) to stdout", self.only)
    }

    fn key(&self, row: &Tuple) -> Result<Vec<String>, Fault> {
        let value = |name: &String| {
            let at = self.relation.columns.iter().position(|column| &column.name == name)?;
            match row.cells().nth(at)? {
                Cell::Text(text) => String::from_utf8(text.to_vec()).ok(),
                _ => None,
            }
        };
        let key: Option<Vec<String>> = self.table.key.iter().map(value).collect();
        key.ok_or_else(|| {
            Fault::stop(format!("{}: a row has no readable key", self.table.name), "report this as a bug")
        })
    }
}

/// What the stream would call the table.
pub fn relation(table: &Table) -> Relation {
    let column = |name: &String| RelationColumn {
        name: name.clone(),
        key: table.key.contains(name),
        type_oid: 0, // values travel as text; nobody asks
        type_modifier: -1,
    };
    let columns = table.columns.iter().map(|c| column(&c.name)).collect();
    Relation { oid: table.oid, name: table.name.clone(), identity: b'd', columns }
}

/// Takes the whole lines of COPY's text format off the front.
pub fn rows_of(pending: &mut BytesMut, columns: usize, rows: &mut Vec<Tuple>) -> Result<(), Fault> {
    while let Some(end) = memchr::memchr(b'\n', pending) {
        let line = pending.split_to(end).freeze();
        pending.advance(1);
        rows.push(row_of(&line, columns)?);
    }
    Ok(())
}

/// One line of COPY's text format: tabs between the columns, `\N` for NULL, backslash escapes.
fn row_of(line: &Bytes, columns: usize) -> Result<Tuple, Fault> {
    let mut row = TupleBuilder::new();
    let mut found = 0;
    let mut text = Vec::new();
    for field in line.split(|&byte| byte == b'\t') {
        found += 1;
        if field == b"\\N" {
            row.push(Cell::Null);
        } else if memchr::memchr(b'\\', field).is_none() {
            row.push(Cell::Text(field));
        } else {
            text.clear();
            unescape(field, &mut text);
            row.push(Cell::Text(&text));
        }
    }
    if found != columns {
        return Err(Fault::retry(format!("a row came with {found} columns, not {columns}: the table was altered")));
    }
    Ok(row.finish())
}

fn unescape(field: &[u8], out: &mut Vec<u8>) {
    let mut rest = field;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let (escaped, after) = match &rest[at + 1..] {
            [byte, after @ ..] => (*byte, after),
            [] => (b'\\', &rest[rest.len()..]),
        };
        // The server writes these and no octal or hexadecimal escapes.
        out.push(match escaped {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            other => other,
        });
        rest = after;
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_line_reads_as_the_values_that_were_written() {
        let line = Bytes::from_static(b"a\\tb\t\\N\t\\\\N\t\tx\\n\\r\\b\\f\\v\\\\");
        let row = row_of(&line, 5).unwrap();
        let cells: Vec<Cell<'_>> = row.cells().collect();
        let expected: [Cell<'_>; 5] =
            [Cell::Text(b"a\tb"), Cell::Null, Cell::Text(b"\\N"), Cell::Text(b""), Cell::Text(b"x\n\r\x08\x0c\x0b\\")];
        assert_eq!(cells, expected);
        assert!(row_of(&line, 4).is_err());
    }
}
