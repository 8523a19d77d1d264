//! In which order tables are copied: what others refer to comes first, for a target where foreign keys act.

use std::collections::HashSet;

use super::Copy;
use crate::pg::{self, Client};
use crate::types::Fault;

const REFERENCES: &str = "select conrelid, confrelid from pg_constraint \
     where contype = 'f' and conrelid = any($1::oid[]) and confrelid = any($1::oid[]) and conrelid <> confrelid";

pub async fn parents_first(client: &Client, tables: Vec<Copy>) -> Result<Vec<Copy>, Fault> {
    let oids: Vec<u32> = tables.iter().map(|copy| copy.table.oid).collect();
    let rows = client.query(REFERENCES, &[&oids]).await.map_err(|error| pg::client::fault(&error))?;
    let references: Vec<(u32, u32)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let order = ordered(&oids, &references);
    let mut tables = tables;
    tables.sort_by_key(|copy| order.iter().position(|&oid| oid == copy.table.oid));
    Ok(tables)
}

/// The tables in the order given, but each behind those that it refers to. A circle is cut where it is met first.
fn ordered(tables: &[u32], references: &[(u32, u32)]) -> Vec<u32> {
    let mut left: Vec<u32> = tables.to_vec();
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let waiting: HashSet<u32> = left.iter().copied().collect();
        let blocked = |table: u32| references.iter().any(|&(from, to)| from == table && waiting.contains(&to));
        let next = left.iter().position(|&table| !blocked(table)).unwrap_or(0);
        order.push(left.remove(next));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_their_children_and_a_circle_ends_somewhere() {
        assert_eq!(ordered(&[1, 2, 3], &[(1, 3), (3, 2)]), [2, 3, 1]);
        assert_eq!(ordered(&[1, 2, 3, 4], &[(1, 2), (2, 1), (4, 1)]), [3, 1, 2, 4]);
        assert_eq!(ordered(&[3, 1], &[]), [3, 1]);
    }
}
