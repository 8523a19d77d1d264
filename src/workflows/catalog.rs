//! What the source's catalogs say of the tables that workflows name, and a row of one to try a workflow on.

use std::collections::{BTreeSet, HashMap};

use super::rule::Known;
use crate::pg::client::fault;
use crate::pg::{Client, quote};
use crate::types::{Fault, TableName};

/// Where the publication is not made yet, nobody knows what it will leave out.
const KNOWN: &str = "with published as materialized (select schemaname, tablename from pg_publication_tables \
       where pubname = $3) \
     select n.nspname::text, c.relname::text, c.relreplident = 'f', \
       array(select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 \
         and not a.attisdropped and a.attgenerated = ''), \
       array(select a.attname::text from pg_index i cross join unnest(i.indkey) with ordinality k (num, place) \
         join pg_attribute a on a.attrelid = c.oid and a.attnum = k.num \
         where i.indrelid = c.oid and case when c.relreplident = 'i' then i.indisreplident else i.indisprimary end \
         order by k.place), \
       not exists (select from pg_publication where pubname = $3) \
         or exists (select from published p where p.schemaname = n.nspname and p.tablename = c.relname) \
     from pg_class c join pg_namespace n on n.oid = c.relnamespace \
     join unnest($1::text[], $2::text[]) w (schema, name) on w.schema = n.nspname and w.name = c.relname \
     where c.relkind in ('r', 'p') and n.nspname not in ('pg_catalog', 'information_schema')";

/// A table, and its key in the key's order.
pub struct Table {
    pub known: Known,
    pub key: Vec<String>,
}

/// `publication`: what the stream brings.
pub async fn tables(
    client: &Client,
    publication: &str,
    names: &BTreeSet<TableName>,
) -> Result<HashMap<TableName, Table>, Fault> {
    let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
    let tables: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    let rows = client.query(KNOWN, &[&schemas, &tables, &publication]).await.map_err(|error| fault(&error))?;
    let read = |row: &tokio_postgres::Row| {
        let key: Vec<String> = row.get(4);
        let known = Known {
            full: row.get(2),
            columns: row.get::<_, Vec<String>>(3).into_iter().collect(),
            key: key.iter().cloned().collect(),
            published: row.get(5),
        };
        (TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)), Table { known, key })
    };
    Ok(rows.iter().map(read).collect())
}

/// The row with the highest key, as JSON.
pub async fn newest_row(client: &Client, table: &TableName, key: &[String]) -> Result<Option<String>, Fault> {
    let order: Vec<String> = key.iter().map(|column| format!("t.{} desc", quote::ident(column))).collect();
    let order = if order.is_empty() { String::new() } else { format!(" order by {}", order.join(", ")) };
    let sql = format!("select to_json(t)::text from {} t{order} limit 1", quote::table(table));
    let row = client.query_opt(&sql, &[]).await.map_err(|error| fault(&error))?;
    Ok(row.map(|row| row.get(0)))
}
