//! Which relations the journal's triggers belong on, and taking them off all others.

use std::collections::HashSet;

use tokio_postgres::Client;

use crate::pg::catalog::{Selection, Survey, Why};
use crate::pg::client::fault;
use crate::types::{Fault, Table};

const HEIRS: &str = "select c.oid from pg_class c where c.oid = any($1::oid[]) and exists ( \
     select from pg_inherits h join pg_class p on p.oid = h.inhrelid \
     where c.oid in (h.inhrelid, h.inhparent) and not p.relispartition)";

/// Takes out the tables that a journal cannot follow, though a slot could.
pub async fn sort_out(client: &Client, survey: &mut Survey, asked: &Selection) -> Result<(), Fault> {
    let oids: Vec<u32> = survey.tables.iter().map(|table| table.oid).collect();
    for row in client.query(HEIRS, &[&oids]).await.map_err(|error| fault(&error))? {
        survey.leave_out(row.get(0), Why::Inherits, asked)?;
    }
    Ok(())
}

const PARTS: &str = "select w.root from unnest($1::oid[]) w (root) union select t.relid::oid \
     from unnest($1::oid[]) w (root), lateral pg_partition_tree(w.root) t";

/// These tables and their partitions, by oid.
pub async fn with_parts(client: &Client, tables: &[Table]) -> Result<HashSet<u32>, Fault> {
    let rows = client.query(PARTS, &[&oids(tables)]).await.map_err(|error| fault(&error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

const FUNCTIONS: &str = "select substr(p.proname, 9)::oid, p.oid::regprocedure::text from pg_proc p \
     where p.pronamespace = (select oid from pg_namespace where nspname = 'lockstep') \
     and p.proname ~ '^journal_[0-9]+$'";

/// Drops the functions of all other tables, and so their triggers: how many. Nobody waits long for the lock, as others
/// would wait behind it.
pub async fn leave_others(client: &Client, tables: &[Table]) -> Result<usize, Fault> {
    let ours = with_parts(client, tables).await?;
    let rows = client.query(FUNCTIONS, &[]).await.map_err(|error| fault(&error))?;
    let mut dropped = 0;
    for row in rows.iter().filter(|row| !ours.contains(&row.get(0))) {
        let sql = format!("set local lock_timeout = '500ms'; drop function {} cascade", row.get::<_, String>(1));
        client.batch_execute(&sql).await.map_err(|error| fault(&error))?;
        dropped += 1;
    }
    Ok(dropped)
}

fn oids(tables: &[Table]) -> Vec<u32> {
    tables.iter().map(|table| table.oid).collect()
}
