//! What must be known of the source's tables to write them without our functions: which columns hold JSON, and which
//! table refers to which.

use std::collections::{HashMap, HashSet};

use super::form::Json;
use crate::pg::{self, Client};
use crate::types::Fault;

#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// By table and column.
    pub json: HashMap<u32, HashMap<String, Json>>,
    /// A table's place in an order in which each comes behind those that it refers to, as far as there is one.
    pub rank: HashMap<u32, usize>,
    /// Tables that others refer to: what is deleted there may take rows of others along.
    pub referenced: HashSet<u32>,
}

const JSON: &str = "
with recursive json (type, text) as (
  select oid, oid = 'json'::regtype from pg_type where oid in ('json'::regtype, 'jsonb'::regtype)
  union all
  select t.oid, j.text from pg_type t join json j on t.typtype = 'd' and t.typbasetype = j.type)
select a.attrelid, a.attname::text, j.text
from pg_attribute a join json j on j.type = a.atttypid
where a.attrelid = any($1::oid[]) and a.attnum > 0 and not a.attisdropped";

const REFERENCES: &str = "select conrelid, confrelid from pg_constraint \
     where contype = 'f' and (conrelid = any($1::oid[]) or confrelid = any($1::oid[]))";

pub async fn read(source: &Client, tables: &[u32]) -> Result<Facts, Fault> {
    let fault = |error: tokio_postgres::Error| pg::client::fault(&error);
    let mut facts = Facts::default();
    for row in source.query(JSON, &[&tables]).await.map_err(fault)? {
        let json = if row.get(2) { Json::Text } else { Json::Binary };
        facts.json.entry(row.get(0)).or_default().insert(row.get(1), json);
    }
    let rows = source.query(REFERENCES, &[&tables]).await.map_err(fault)?;
    let references: Vec<(u32, u32)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    facts.referenced = references.iter().map(|&(_, parent)| parent).collect();
    facts.rank = ranks(tables, &references);
    Ok(facts)
}

/// Each table one higher than the highest that it refers to. In a circle somebody must be first.
fn ranks(tables: &[u32], references: &[(u32, u32)]) -> HashMap<u32, usize> {
    let mut rank: HashMap<u32, usize> = tables.iter().map(|&table| (table, 0)).collect();
    // No chain without a circle is longer than there are tables.
    for _ in 0..tables.len() {
        let mut moved = false;
        for &(child, parent) in references.iter().filter(|(child, parent)| child != parent) {
            let (Some(&below), Some(&above)) = (rank.get(&child), rank.get(&parent)) else { continue };
            if below <= above && above < tables.len() {
                rank.insert(child, above + 1);
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_ranks_behind_all_that_it_refers_to_and_a_circle_ends() {
        let rank = ranks(&[1, 2, 3, 4], &[(1, 3), (3, 2), (4, 2), (2, 9), (1, 1)]);
        assert_eq!([1, 2, 3, 4].map(|table| rank[&table]), [2, 0, 1, 1]);
        assert_eq!(ranks(&[1, 2], &[(1, 2), (2, 1)]).len(), 2);
    }
}
