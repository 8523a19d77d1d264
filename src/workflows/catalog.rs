//! What the source's catalogs say of the tables that workflows name, and a row of one to try a workflow on.

use std::collections::{BTreeSet, HashMap};

use super::rule::Known;
use crate::pg::client::fault;
use crate::pg::{Client, quote};
use crate::types::{Fault, TableName};

const KNOWN: &str = "select n.nspname::text, c.relname::text, c.relreplident = 'f', \
       array(select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 \
         and not a.attisdropped and a.attgenerated = ''), \
       array(select a.attname::text from pg_index i cross join unnest(i.indkey) with ordinality k (num, place) \
         join pg_attribute a on a.attrelid = c.oid and a.attnum = k.num \
         where i.indrelid = c.oid and case when c.relreplident = 'i' then i.indisreplident else i.indisprimary end \
         order by k.place), \
       {published} \
     from pg_class c join pg_namespace n on n.oid = c.relnamespace \
     join unnest($1::text[], $2::text[]) w (schema, name) on w.schema = n.nspname and w.name = c.relname \
     where c.relkind in ('r', 'p') and n.nspname not in ('pg_catalog', 'information_schema')";

/// What pg_publication_tables says of one table: that view opens every published table from version 16 on, so that a
/// lock on any of them would keep us waiting. Without a publication the journal's triggers say it; where neither is made yet,
/// nobody knows what will be left out.
const PUBLISHED: &str = "coalesce((select case \
         when p.puballtables then c.relpersistence = 'p' \
           and case when p.pubviaroot then not c.relispartition else c.relkind = 'r' end \
         when p.pubviaroot then {own} and not {above} \
         else c.relkind = 'r' and ({own} or {above}) end \
       from pg_publication p where p.pubname = $3), \
     case when to_regclass('lockstep.journal') is not null then exists (select from pg_trigger t \
         where t.tgrelid = c.oid and t.tgname = 'lockstep_journal_insert') end, true)";
const ABOVE: &str = "exists (select from pg_partition_ancestors(c.oid) a (oid) where a.oid <> c.oid and {above})";
const BY_NAME: &str = "exists (select from pg_publication_rel r where r.prpubid = p.oid and r.prrelid = {oid})";
/// Version 15 and later.
const BY_SCHEMA: &str = "exists (select from pg_publication_namespace s join pg_class k on k.relnamespace = s.pnnspid \
       where s.pnpubid = p.oid and k.oid = {oid} and k.relpersistence = 'p')";

fn published(schemas: bool) -> String {
    let listed = |oid: &str| match schemas {
        true => format!("({BY_NAME} or {BY_SCHEMA})").replace("{oid}", oid),
        false => BY_NAME.replace("{oid}", oid),
    };
    PUBLISHED.replace("{own}", &listed("c.oid")).replace("{above}", &ABOVE.replace("{above}", &listed("a.oid")))
}

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
    const SCHEMAS: &str = "select to_regclass('pg_catalog.pg_publication_namespace') is not null";
    let schemas = client.query_one(SCHEMAS, &[]).await.map_err(|error| fault(&error))?.get(0);
    read(client, &published(schemas), Some(publication), names).await
}

/// The same of one table, whether it is published or not.
pub async fn table(client: &Client, name: &TableName) -> Result<Option<Table>, Fault> {
    let names = BTreeSet::from([name.clone()]);
    Ok(read(client, "$3::text is null", None, &names).await?.remove(name))
}

async fn read(
    client: &Client,
    published: &str,
    publication: Option<&str>,
    names: &BTreeSet<TableName>,
) -> Result<HashMap<TableName, Table>, Fault> {
    let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
    let tables: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    let sql = KNOWN.replace("{published}", published);
    let rows = client.query(&sql, &[&schemas, &tables, &publication]).await.map_err(|error| fault(&error))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{Cluster, ClusterOptions};

    /// On another version: its programs' folder in LOCKSTEP_TEST_SOURCE_BIN.
    #[tokio::test]
    async fn what_is_published_is_what_postgres_says_and_asking_for_it_waits_for_no_table() {
        const TABLES: &str =
            "create schema s; create table plain (id int primary key); create unlogged table unl (id int);
            create table root (id int primary key) partition by range (id);
            create table leaf partition of root for values from (0) to (10);
            create table s.leaf partition of root for values from (10) to (20) partition by range (id);
            create table s.low partition of s.leaf for values from (10) to (15);
            create table s.plain (id int primary key)";
        const LISTS: [&str; 6] = [
            "for all tables",
            "",
            "for table plain, root",
            "for table leaf",
            "for table s.leaf, s.low",
            "for table root, s.low",
        ];
        const SCHEMAS: [&str; 3] =
            ["for tables in schema s", "for tables in schema s, table root", "for tables in schema public"];
        let bin = std::env::var_os("LOCKSTEP_TEST_SOURCE_BIN").map(Into::into);
        let cluster = Cluster::temp(ClusterOptions { bin, ..ClusterOptions::default() }).await.unwrap();
        let client = cluster.connect().await.unwrap();
        client.batch_execute(TABLES).await.unwrap();
        let names = ["plain", "unl", "root", "leaf", "s.leaf", "s.low", "s.plain"].map(TableName::parse);
        let names = BTreeSet::from(names);
        let lists = LISTS.iter().chain(SCHEMAS.iter().filter(|_| cluster.major() >= 15));
        let mut published = 0;
        for (list, root) in lists.flat_map(|list| [(list, true), (list, false)]) {
            let make = format!(
                "drop publication if exists p; create publication p {list} with (publish_via_partition_root = {root})"
            );
            client.batch_execute(&make).await.unwrap();
            let said = tables(&client, "p", &names).await.unwrap();
            let theirs = "select schemaname::text, tablename::text from pg_publication_tables where pubname = 'p'";
            let theirs = client.query(theirs, &[]).await.unwrap();
            let theirs: BTreeSet<TableName> =
                theirs.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect();
            let ours = said.iter().filter(|(_, table)| table.known.published).map(|(name, _)| name.clone());
            assert_eq!(ours.collect::<BTreeSet<_>>(), theirs, "{list}, by root: {root}");
            published += theirs.len();
        }
        assert!(published > 10);
        assert!(tables(&client, "none", &names).await.unwrap().values().all(|table| table.known.published));

        let other = cluster.connect().await.unwrap();
        other.batch_execute("begin; lock table plain, root, s.plain in access exclusive mode").await.unwrap();
        client.batch_execute("set lock_timeout = '100ms'").await.unwrap();
        assert_eq!(tables(&client, "p", &names).await.unwrap().len(), names.len());
        assert_eq!(table(&client, &TableName::parse("plain")).await.unwrap().unwrap().key, ["id"]);
    }
}
