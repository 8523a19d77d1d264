//! What a comparison asks of the source: the same things as of the target (`sql/supabase/digest.sql`), in the same
//! words, over a direct connection.

use std::collections::{HashMap, HashSet};
use std::pin::pin;

use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::future::try_join_all;

use super::inlet::{self, Marks};
use super::part::{Bounds, Digest, Key};
use super::prove::Seen;
use super::read::rows_of;
use crate::pg::{self, Client, quote};
use crate::types::{Cell, Fault, Lsn, Snapshot, Table, Tuple, TupleBuilder};

/// One table at the source, with the expressions that its rows are compared by.
pub struct Source<'a> {
    pub client: &'a Client,
    table: &'a Table,
    from: String,
    hash: String,
    /// The key's columns, comma by comma; and as text, each.
    key: String,
    texts: Vec<String>,
    types: Vec<&'a str>,
    /// ` collate …` for each, where it has one of its own.
    collations: Vec<String>,
    pub blocks: u64,
    marks: Marks,
}

/// Rows of the source by their key, as they are now, for a repair.
pub struct Fetched {
    pub snapshot: Snapshot,
    /// By the place of their key: the version of the row, and the row.
    pub rows: HashMap<usize, (String, Tuple)>,
    /// Reading stopped here for want of memory: which of the others are there is not known.
    pub cut: bool,
}

const LOOK: &str = "select c.relkind::text, coalesce((select max(pg_relation_size(p.relid)) \
     from pg_partition_tree(c.oid) p where p.isleaf), pg_relation_size(c.oid)) / current_setting('block_size')::int, \
     getdatabaseencoding() = 'UTF8', \
     array(select case when a.attcollation not in (0, 100) then ' collate ' || a.attcollation::regcollation else '' end \
           from unnest($2::text[]) with ordinality k (name, n) \
           join pg_attribute a on a.attrelid = c.oid and a.attname = k.name order by n) from pg_class c where c.oid = $1";

const SUMS: &str = "count(*), coalesce(sum(('x' || left(m, 15))::bit(60)::int8), 0)::text, \
                    coalesce(sum(('x' || substr(m, 17, 15))::bit(60)::int8), 0)::text";

/// A session that writes values as the target's door does.
pub const MONEY: &str = "set lc_monetary = 'C'";

impl<'a> Source<'a> {
    pub async fn new(client: &'a Client, table: &'a Table, marks: Marks) -> Result<Self, Fault> {
        let row = client.query_opt(LOOK, &[&table.oid, &table.key]).await.map_err(|e| pg::client::fault(&e))?;
        let row = row.ok_or_else(|| Fault::retry(format!("{} is gone from the source", table.name)))?;
        let (kind, blocks, utf8): (String, i64, bool) = (row.get(0), row.get(1), row.get(2));
        let only = if kind == "r" { "only " } else { "" };
        let names = |names: &mut dyn Iterator<Item = &String>| {
            names.map(|name| format!("t.{}", quote::ident(name))).collect::<Vec<_>>()
        };
        let key = names(&mut table.key.iter());
        let columns = names(&mut table.columns.iter().map(|column| &column.name)).join(", ");
        let type_of = |name: &String| {
            table.columns.iter().find(|column| &column.name == name).map_or("text", |column| &column.type_name)
        };
        Ok(Self {
            client,
            from: format!("{only}{} t", quote::table(&table.name)),
            hash: hash_of(&columns, utf8),
            texts: key.iter().map(|name| format!("concat({name})")).collect(),
            key: key.join(", "),
            types: table.key.iter().map(type_of).collect(),
            collations: row.get(3),
            blocks: blocks.max(0) as u64,
            marks,
            table,
        })
    }

    /// The types of the key's columns.
    pub fn key_types(&self) -> impl Iterator<Item = &str> {
        self.types.iter().copied()
    }

    /// A mark in the WAL: whoever has passed it holds all that was seen before it was written.
    pub async fn mark(&self) -> Result<Lsn, Fault> {
        inlet::write(self.client, self.marks, "compare").await
    }

    /// The next rows behind a key, divided into parts of `size` rows, at most `limit`; the last part of what there is
    /// has no upper bound but that of the whole.
    pub async fn ranges(
        &self,
        after: Option<&Key>,
        upto: Option<&Key>,
        limit: Option<u64>,
        size: u64,
    ) -> Result<Vec<(Bounds, Digest)>, Fault> {
        let ends: Vec<String> = (0..self.texts.len()).map(|k| format!("max(k{k}) filter (where n % $3 = 0)")).collect();
        let texts: Vec<String> = self.texts.iter().enumerate().map(|(k, text)| format!("{text} as k{k}")).collect();
        let sql = format!(
            "select {SUMS}, array[{}] from (select row_number() over (order by {key}) as n, {} as m, {} \
             from {} where {} order by {key} limit $4) r group by (n - 1) / $3 order by (n - 1) / $3",
            ends.join(", "),
            self.hash,
            texts.join(", "),
            self.from,
            self.within(after.is_some(), upto.is_some()),
            key = self.key,
        );
        let (size, wanted) = (size as i64, limit.map(|limit| limit as i64));
        let rows =
            self.client.query(&sql, &[&after, &upto, &size, &wanted]).await.map_err(|e| pg::client::fault(&e))?;
        let mut parts = Vec::with_capacity(rows.len() + 1);
        let (mut begin, mut count) = (after.cloned(), 0);
        for row in &rows {
            let digest = Digest::new(row.get::<_, i64>(0) as u64, row.get(1), row.get(2));
            count += digest.rows;
            let end: Option<Key> = row.get::<_, Vec<Option<String>>>(3).into_iter().collect();
            parts.push(((begin.clone(), end.clone()), digest));
            begin = end;
        }
        let is_last = limit.is_none_or(|limit| count < limit);
        if parts.is_empty() {
            parts.push(((begin, upto.cloned()), Digest::default()));
        } else if is_last && let Some(((_, end), _)) = parts.last_mut() {
            *end = upto.cloned();
        }
        Ok(parts)
    }

    /// The digest of all rows.
    pub async fn whole(&self) -> Result<Digest, Fault> {
        let sql = format!("select {SUMS} from (select {} as m from {} offset 0) r", self.hash, self.from);
        let row = self.client.query_one(&sql, &[]).await.map_err(|e| pg::client::fault(&e))?;
        Ok(Digest::new(row.get::<_, i64>(0) as u64, row.get(1), row.get(2)))
    }

    /// The digests of the buckets that hold anything, of some blocks.
    pub async fn buckets(
        &self,
        modulus: u32,
        of: Option<&[u32]>,
        blocks: (u64, Option<u64>),
    ) -> Result<HashMap<u32, Digest>, Fault> {
        let sql = format!(
            "select p, {SUMS} from (select {} as p, {} as m from {} where {} offset 0) r group by p",
            self.bucket(modulus),
            self.hash,
            self.from,
            self.in_blocks(modulus, of, blocks),
        );
        let rows = self.client.query(&sql, &[]).await.map_err(|e| pg::client::fault(&e))?;
        let digest = |row: &tokio_postgres::Row| {
            (row.get::<_, i32>(0) as u32, Digest::new(row.get::<_, i64>(1) as u64, row.get(2), row.get(3)))
        };
        Ok(rows.iter().map(digest).collect())
    }

    /// Keys and hashes of the rows of some ranges.
    pub async fn rows(&self, ranges: &[Bounds]) -> Result<HashMap<Key, String>, Fault> {
        let one = async |(after, upto): &Bounds| {
            let filter = self.within(after.is_some(), upto.is_some());
            let sql =
                format!("select array[{}], {} from {} where {filter}", self.texts.join(", "), self.hash, self.from);
            self.client.query(&sql, &[after, upto]).await.map_err(|e| pg::client::fault(&e))
        };
        // One behind the other on the wire, without waiting for each answer.
        let all = try_join_all(ranges.iter().map(one)).await?;
        Ok(all.iter().flatten().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Keys and hashes of the rows of some buckets, of some blocks.
    pub async fn rows_of_buckets(
        &self,
        modulus: u32,
        of: &[u32],
        blocks: (u64, Option<u64>),
    ) -> Result<Vec<(Key, String)>, Fault> {
        let sql = format!(
            "select array[{}], {} from {} where {}",
            self.texts.join(", "),
            self.hash,
            self.from,
            self.in_blocks(modulus, Some(of), blocks)
        );
        let rows = self.client.query(&sql, &[]).await.map_err(|e| pg::client::fault(&e))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Single rows, each in the place of its key.
    pub async fn observe(&self, keys: &[Key]) -> Result<Vec<Option<Seen>>, Fault> {
        let sql = format!("select w.n, {}, t.xmin::text from {}", self.hash, self.by_key("$1::text::jsonb"));
        let rows = self.client.query(&sql, &[&json(keys)]).await.map_err(|e| pg::client::fault(&e))?;
        let mut seen = vec![None; keys.len()];
        for row in rows {
            if let Some(place) = place(row.get(0)).and_then(|place| seen.get_mut(place)) {
                *place = Some(Seen { hash: row.get(1), version: row.get(2) });
            }
        }
        Ok(seen)
    }

    /// Whether a commit may be in the WAL that nobody sees yet, because it waits for a synchronous standby.
    pub async fn hides_commits(&self) -> Result<bool, Fault> {
        let sql = "select exists (select from pg_stat_activity where wait_event = 'SyncRep')";
        Ok(self.client.query_one(sql, &[]).await.map_err(|e| pg::client::fault(&e))?.get(0))
    }

    /// Whole rows by their key, at most about `bytes` of them.
    pub async fn fetch(&self, keys: &[Key], bytes: usize) -> Result<Fetched, Fault> {
        let fault = |e: tokio_postgres::Error| pg::client::fault(&e);
        // COPY takes no parameters, but reads a setting.
        let set = "select set_config('lockstep.keys', $1, false)";
        self.client.execute(set, &[&json(keys)]).await.map_err(fault)?;
        let begin = format!(
            "begin isolation level repeatable read, read only; lock table {} in access share mode",
            self.from.trim_end_matches(" t")
        );
        self.client.batch_execute(&begin).await.map_err(fault)?;
        let fetched = self.copy_out(bytes).await;
        self.client.batch_execute("commit").await.map_err(fault)?;
        fetched
    }

    async fn copy_out(&self, bytes: usize) -> Result<Fetched, Fault> {
        let fault = |e: tokio_postgres::Error| pg::client::fault(&e);
        let row = self.client.query_one("select pg_current_snapshot()::text", &[]).await.map_err(fault)?;
        let snapshot = row.get::<_, String>(0).parse().map_err(|cause: String| Fault::retry(cause))?;
        let columns: Vec<String> =
            self.table.columns.iter().map(|column| format!("t.{}", quote::ident(&column.name))).collect();
        let from = self.by_key("current_setting('lockstep.keys')::jsonb");
        let sql = format!("copy (select w.n, t.xmin, {} from {from}) to stdout", columns.join(", "));
        let mut stream = pin!(self.client.copy_out(&sql).await.map_err(fault)?);
        let (mut pending, mut lines, mut rows) = (BytesMut::new(), Vec::new(), HashMap::new());
        let (mut size, mut cut) = (0, false);
        while let Some(data) = stream.next().await {
            pending.extend_from_slice(&data.map_err(fault)?);
            rows_of(&mut pending, columns.len() + 2, &mut lines)?;
            size += lines.iter().map(Tuple::size).sum::<usize>();
            rows.extend(lines.drain(..).filter_map(|line| apart(&line)));
            if size > bytes {
                cut = true;
                break;
            }
        }
        Ok(Fetched { snapshot, rows, cut })
    }

    /// FROM and WHERE of what looks rows up by key: by the key's own operators, for the index, and by its text.
    fn by_key(&self, keys: &str) -> String {
        let matches: Vec<String> = self
            .table
            .key
            .iter()
            .zip(self.types.iter().zip(&self.collations))
            .enumerate()
            .map(|(k, (name, (of, collation)))| format!("t.{} = (w.k->>{k})::{of}{collation}", quote::ident(name)))
            .collect();
        format!(
            "jsonb_array_elements({keys}) with ordinality w(k, n) join {} on {} where jsonb_build_array({}) = w.k",
            self.from,
            matches.join(" and "),
            self.texts.join(", ")
        )
    }

    fn within(&self, after: bool, upto: bool) -> String {
        let bound = |parameter: u8| {
            let values =
                self.types.iter().enumerate().map(|(k, of)| format!("(${parameter}::text[])[{}]::{of}", k + 1));
            values.collect::<Vec<_>>().join(", ")
        };
        let after = if after { format!("({}) > ({})", self.key, bound(1)) } else { "$1::text[] is null".into() };
        let upto = if upto { format!("({}) <= ({})", self.key, bound(2)) } else { "$2::text[] is null".into() };
        format!("{after} and {upto}")
    }

    fn bucket(&self, modulus: u32) -> String {
        format!("('x' || left({}, 7))::bit(28)::int4 % {modulus}", hash_of(&self.key, self.hash_is_plain()))
    }

    fn hash_is_plain(&self) -> bool {
        !self.hash.contains("convert_to")
    }

    fn in_blocks(&self, modulus: u32, of: Option<&[u32]>, (from, to): (u64, Option<u64>)) -> String {
        let mut filter = format!("t.ctid >= '({from},0)'");
        if let Some(to) = to {
            filter += &format!(" and t.ctid < '({to},0)'");
        }
        if let Some(of) = of {
            let of: HashSet<u32> = of.iter().copied().collect();
            let of: Vec<String> = of.iter().map(u32::to_string).collect();
            filter += &format!(" and ({}) = any ('{{{}}}'::int4[])", self.bucket(modulus), of.join(","));
        }
        filter
    }
}

/// The target is UTF-8, and so are the bytes that are hashed.
fn hash_of(columns: &str, utf8: bool) -> String {
    if utf8 { format!("md5(row({columns})::text)") } else { format!("md5(convert_to(row({columns})::text, 'UTF8'))") }
}

fn json(keys: &[Key]) -> String {
    serde_json::to_string(keys).unwrap_or_default() // text in lists: JSON holds it
}

/// From ordinality, which begins at 1.
fn place(n: i64) -> Option<usize> {
    usize::try_from(n).ok()?.checked_sub(1)
}

/// Place, version and row of a line that begins with the first two.
fn apart(line: &Tuple) -> Option<(usize, (String, Tuple))> {
    let mut cells = line.cells();
    let text = |cell: Option<Cell<'_>>| match cell {
        Some(Cell::Text(text)) => String::from_utf8(text.to_vec()).ok(),
        _ => None,
    };
    let place = place(text(cells.next())?.parse().ok()?)?;
    let version = text(cells.next())?;
    let mut row = TupleBuilder::new();
    cells.for_each(|cell| row.push(cell));
    Some((place, (version, row.finish())))
}
