//! Whether two databases hold the same rows: every table whole, every column as text.
//!
//! First a digest of each side that does not depend on order; only if those differ, both sides are read in the key's
//! order and merged, one row of each in memory.

use futures_util::{StreamExt, TryStreamExt, pin_mut};
use tokio_postgres::{Client, Row, RowStream};

use crate::types::TableName;

use super::{Doing, LabError, Result};

// Enough to see the pattern.
const SHOWN: usize = 20;

/// One line per difference, at most 20 per table; empty when all is equal.
pub async fn differences(source: &Client, target: &Client, tables: &[TableName]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for table in tables {
        table_differences(source, target, table, &mut all).await?;
    }
    Ok(all)
}

/// Rows per table, in the order given.
pub async fn counts(client: &Client, tables: &[TableName]) -> Result<Vec<i64>> {
    let mut counts = Vec::new();
    for table in tables {
        let sql = format!("select count(*) from {}", quoted_table(table));
        let row = client.query_one(&sql, &[]).await.doing(|| format!("cannot count {table}"))?;
        counts.push(row.get(0));
    }
    Ok(counts)
}

async fn table_differences(source: &Client, target: &Client, table: &TableName, all: &mut Vec<String>) -> Result<()> {
    for client in [source, target] {
        client.batch_execute(CANONICAL).await.doing(|| "cannot pin the output formats".into())?;
    }
    let columns = columns(source, table).await?;
    let there = columns_of(target, table).await?;
    if columns.is_empty() {
        return Err(LabError(format!("{table} does not exist in the source")));
    }
    if there.is_empty() {
        all.push(format!("{table}: missing in the target"));
        return Ok(());
    }
    let missing: Vec<_> = columns.iter().filter(|column| !there.contains(&column.name)).collect();
    if !missing.is_empty() {
        all.extend(missing.iter().map(|column| format!("{table}: column {} is missing in the target", column.name)));
        return Ok(());
    }
    let row = format!("array[{}]", join(columns.iter().map(|column| text_of(&column.name))));
    let digests = tokio::try_join!(digest(source, table, &row), digest(target, table, &row))?;
    if digests.0 == digests.1 {
        return Ok(());
    }
    let mut key: Vec<_> = columns.iter().filter(|column| column.key.is_some()).collect();
    key.sort_by_key(|column| column.key);
    let key = match key.is_empty() {
        true => row.clone(), // no key: the row is its own
        false => format!("array[{}]", join(key.iter().map(|column| text_of(&column.name)))),
    };
    let before = all.len();
    merge(source, target, table, &columns, (&key, &row), all).await?;
    if all.len() == before {
        all.push(format!(
            "{table}: digests differ ({:?}, {:?}), rows do not: it changed meanwhile",
            digests.0, digests.1
        ));
    }
    Ok(())
}

/// The same text for the same value, whatever either side has set.
const CANONICAL: &str = "set datestyle = 'ISO'; set intervalstyle = 'postgres'; set timezone = 'UTC'; \
    set extra_float_digits = 3; set bytea_output = 'hex'; set search_path = ''; set statement_timeout = 0";

struct Col {
    name: String,
    /// Its place in the primary key.
    key: Option<i32>,
}

async fn columns(client: &Client, table: &TableName) -> Result<Vec<Col>> {
    const COLUMNS: &str = "
        select a.attname::text, array_position(i.indkey::int2[], a.attnum)
        from pg_catalog.pg_attribute a
        join pg_catalog.pg_class c on c.oid = a.attrelid
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        left join pg_catalog.pg_index i on i.indrelid = c.oid and i.indisprimary
        where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped
        order by a.attnum";
    let rows = client.query(COLUMNS, &[&table.schema, &table.name]).await;
    let rows = rows.doing(|| format!("cannot read the columns of {table}"))?;
    Ok(rows.iter().map(|row| Col { name: row.get(0), key: row.get(1) }).collect())
}

async fn columns_of(client: &Client, table: &TableName) -> Result<Vec<String>> {
    Ok(columns(client, table).await?.into_iter().map(|column| column.name).collect())
}

async fn digest(client: &Client, table: &TableName, row: &str) -> Result<(i64, String)> {
    // A sum does not depend on order, and unlike xor it sees a row that is there twice.
    let sql = format!(
        "select count(*), coalesce(sum(('x' || substr(md5(({row})::text), 1, 15))::bit(60)::bigint), 0)::text from {}",
        quoted_table(table)
    );
    let row = client.query_one(&sql, &[]).await.doing(|| format!("cannot digest {table}"))?;
    Ok((row.get(0), row.get(1)))
}

async fn merge(
    source: &Client,
    target: &Client,
    table: &TableName,
    columns: &[Col],
    (key, row): (&str, &str),
    all: &mut Vec<String>,
) -> Result<()> {
    let sql = format!(
        "select ({key})::text collate \"C\" as key, {row} as row from {} order by 1, ({row})::text collate \"C\"",
        quoted_table(table)
    );
    let (left, right) = tokio::try_join!(read(source, table, &sql), read(target, table, &sql))?;
    let (left, right) = (left.map(parse), right.map(parse));
    pin_mut!(left, right);
    let doing = || format!("cannot read {table}");
    let (mut here, mut there) = (left.try_next().await.doing(doing)?, right.try_next().await.doing(doing)?);
    let mut shown = 0;
    while shown < SHOWN {
        let order = match (&here, &there) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(here), Some(there)) => here.0.cmp(&there.0),
        };
        shown += 1;
        match (order, &here, &there) {
            (std::cmp::Ordering::Less, Some((key, row)), _) => {
                all.push(format!("{table} {key}: missing in the target: {}", brief(columns, row)));
            }
            (std::cmp::Ordering::Greater, _, Some((key, row))) => {
                all.push(format!("{table} {key}: only in the target: {}", brief(columns, row)));
            }
            (_, Some((key, left)), Some((_, right))) if left != right => {
                all.push(format!("{table} {key}: {}", unequal(columns, left, right)));
            }
            _ => shown -= 1,
        }
        if order.is_le() {
            here = left.try_next().await.doing(doing)?;
        }
        if order.is_ge() {
            there = right.try_next().await.doing(doing)?;
        }
    }
    Ok(())
}

async fn read(client: &Client, table: &TableName, sql: &str) -> Result<RowStream> {
    const NO_PARAMETERS: [&str; 0] = [];
    client.query_raw(sql, NO_PARAMETERS).await.doing(|| format!("cannot read {table}"))
}

type Keyed = (String, Vec<Option<String>>);

fn parse(row: Result<Row, tokio_postgres::Error>) -> Result<Keyed, tokio_postgres::Error> {
    let row = row?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

fn unequal(columns: &[Col], left: &[Option<String>], right: &[Option<String>]) -> String {
    let pairs = columns.iter().zip(left.iter().zip(right)).filter(|(_, (left, right))| left != right);
    let pairs = pairs.map(|(column, (left, right))| format!("{}: {} -> {}", column.name, shown(left), shown(right)));
    pairs.collect::<Vec<_>>().join(", ")
}

fn brief(columns: &[Col], row: &[Option<String>]) -> String {
    let cells = columns.iter().zip(row).take(6).map(|(column, cell)| format!("{}={}", column.name, shown(cell)));
    cells.collect::<Vec<_>>().join(" ")
}

fn shown(cell: &Option<String>) -> String {
    match cell {
        None => "null".into(),
        Some(text) if text.chars().count() > 60 => {
            format!("`{}…` ({} bytes)", text.chars().take(60).collect::<String>(), text.len())
        }
        Some(text) => format!("`{text}`"),
    }
}

/// The column's own output, or NULL. `num_nulls` and not `is null`: a composite of NULLs is a value.
fn text_of(column: &str) -> String {
    let column = quoted(column);
    format!("case pg_catalog.num_nulls({column}) when 0 then pg_catalog.format('%s', {column}) end")
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

pub(super) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

pub(super) fn quoted_table(table: &TableName) -> String {
    format!("{}.{}", quoted(&table.schema), quoted(&table.name))
}
