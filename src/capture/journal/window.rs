//! What is asked of the journal: which transactions ended next, and what they hold, a bounded piece at a time.

use tokio_postgres::Row;

use super::horizon::{db, lsn};
use crate::pg::Client;
use crate::types::{Fault, Lsn};

const WINDOW: &str = "select cut::text, ends::text[], xids, at \
     from lockstep.journal_window($1::text::pg_lsn, $2::text::pg_lsn, $3)";
/// The size of a text is known without reading it: rows above the piece's bytes stay where they are.
const ROWS: &str = "select place, lsn, n, op, shape, key, line, before + size from (\
       select place, lsn, n, op, shape, key, line, size, \
         coalesce(sum(size) over (rows between unbounded preceding and 1 preceding), 0)::int8 as before \
       from (select u.place, j.lsn::text, j.n, j.op::text, j.shape, j.key, j.line, \
           coalesce(octet_length(j.key), 0) + coalesce(octet_length(j.line), 0) as size \
         from unnest($1::text[]) with ordinality u (xid, place), lateral (\
           select * from lockstep.journal j where j.xid = u.xid::xid8 \
           and (j.lsn, j.n) > (case when u.place = 1 then $2::text::pg_lsn else '0/0' end, \
                               case when u.place = 1 then $3::int8 else -1 end) \
           order by j.lsn, j.n) j limit $4) l) p where before < $5";
/// Statements that one window looks at: some 100 kB.
const STATEMENTS: i32 = 1000;

/// A transaction that ended before the horizon.
pub(super) struct Found {
    pub(super) commit: Lsn,
    pub(super) xid: String,
    pub(super) at: i64,
}

/// The transactions that ended behind `behind`, in their order, and how far this reaches: `upto` at most.
pub(super) async fn window(client: &Client, behind: Lsn, upto: Lsn) -> Result<(Lsn, Vec<Found>), Fault> {
    let row = client.query_one(WINDOW, &[&behind.to_string(), &upto.to_string(), &STATEMENTS]).await.map_err(db)?;
    let ends: Option<Vec<String>> = row.get(1);
    let xids: Option<Vec<String>> = row.get(2);
    let at: Option<Vec<Option<i64>>> = row.get(3);
    let mut found = Vec::new();
    let all = ends.unwrap_or_default().into_iter().zip(xids.unwrap_or_default()).zip(at.unwrap_or_default());
    for ((end, xid), at) in all {
        found.push(Found { commit: lsn(&end)?, xid, at: at.unwrap_or_default() });
    }
    Ok((lsn(row.get(0))?, found))
}

/// Rows of these transactions in their order, each with the bytes of all up to it; of the first one those behind
/// `from`: so many, and about so many bytes.
pub(super) async fn rows(
    client: &Client,
    xids: &[&str],
    from: (Lsn, i64),
    limit: i64,
    bytes: usize,
) -> Result<Vec<Row>, Fault> {
    client.query(ROWS, &[&xids, &from.0.to_string(), &from.1, &limit, &(bytes as i64)]).await.map_err(db)
}

/// A text of a row. A source of encoding SQL_ASCII may hold what is none.
pub(super) fn text(row: &Row, at: usize) -> Result<Option<&str>, Fault> {
    row.try_get(at).map_err(|_| {
        Fault::stop(
            "the journal holds text that is not UTF-8, as only a source of encoding SQL_ASCII can",
            "make that text UTF-8 in the source; then lockstep setup teardown --apply there, and start again",
        )
    })
}
