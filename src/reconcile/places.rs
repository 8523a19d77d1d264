//! Rows of a repair that change places: a unique value that one of them is to have is still another one's. Written in
//! the wrong order, the target would refuse what is right.

use std::collections::HashMap;

use super::check::Check;
use super::part::Key;
use super::prove::{Found, TOGETHER};
use super::target::Trouble;
use crate::pg;
use crate::types::DifferenceKind;

/// A row to write.
#[derive(Clone, Debug)]
pub struct Turn {
    pub found: Found,
    /// Those of one group are written together, in this order. 0: it is for itself.
    pub group: usize,
    /// What the target holds of it goes first, and makes room.
    pub gives_way: bool,
}

/// Unique indexes beside the key: their columns. One over an expression says nothing here.
const UNIQUE: &str = "select array(select a.attname::text from unnest(i.indkey::int2[]) with ordinality k (attnum, n) \
       join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum where n <= i.indnkeyatts order by n) \
     from pg_index i where i.indrelid = $1 and i.indisunique and i.indisvalid and i.indexprs is null";
const REFERENCED: &str = "select exists (select from pg_constraint where contype = 'f' and confrelid = $1)";

impl Check<'_> {
    /// In which order rows that differ or are missing are written.
    pub(super) async fn turns(&mut self, found: Vec<Found>) -> Result<Vec<Turn>, Trouble> {
        let is_there = |found: &Found| found.kind == DifferenceKind::Different;
        let alone =
            |found: Vec<Found>| found.into_iter().map(|found| Turn { found, group: 0, gives_way: false }).collect();
        if found.len() < 2 || !found.iter().any(is_there) {
            return Ok(alone(found));
        }
        let fault = |error: tokio_postgres::Error| pg::client::fault(&error);
        let mut waits_for: Vec<Vec<usize>> = vec![Vec::new(); found.len()];
        let keys: Vec<Key> = found.iter().map(|found| found.key.clone()).collect();
        for row in self.source.client.query(UNIQUE, &[&self.table.oid]).await.map_err(fault)? {
            let columns: Vec<String> = row.get(0);
            let is_key = columns.iter().all(|name| self.table.key.contains(name));
            let travels = |name: &String| self.table.columns.iter().any(|column| &column.name == name);
            if is_key || !columns.iter().all(travels) {
                continue;
            }
            let (mut ours, mut theirs) = (Vec::with_capacity(keys.len()), Vec::with_capacity(keys.len()));
            for keys in keys.chunks(TOGETHER) {
                ours.extend(self.source.values(keys, &columns).await?);
                let mark = self.source.mark().await?;
                theirs.extend(self.target.values(mark, keys, &columns).await?);
            }
            holders(&ours, &theirs, &mut waits_for);
        }
        if waits_for.iter().all(Vec::is_empty) {
            return Ok(alone(found));
        }
        // Where foreign keys act over there, a row that others refer to would take them along.
        let may = !self.settings.foreign_keys_act
            || !self.source.client.query_one(REFERENCED, &[&self.table.oid]).await.map_err(fault)?.get::<_, bool>(0);
        let mut found: Vec<Option<Found>> = found.into_iter().map(Some).collect();
        let mut turns = Vec::with_capacity(found.len());
        for Place { row, group, gives_way } in in_order(&waits_for) {
            let Some(found) = found.get_mut(row).and_then(Option::take) else { continue };
            let gives_way = gives_way && may && is_there(&found);
            turns.push(Turn { found, group, gives_way });
        }
        Ok(turns)
    }
}

/// Notes of each row which others hold what it is to have.
fn holders(ours: &[Option<String>], theirs: &[Option<String>], waits_for: &mut [Vec<usize>]) {
    let held: HashMap<&String, usize> =
        theirs.iter().enumerate().filter_map(|(row, value)| Some((value.as_ref()?, row))).collect();
    for (row, value) in ours.iter().enumerate() {
        let Some(&holder) = value.as_ref().and_then(|value| held.get(value)) else { continue };
        if holder != row {
            waits_for[row].push(holder);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    row: usize,
    group: usize,
    gives_way: bool,
}

/// Each row behind those that it waits for; where they wait for one another in a circle, one of them gives way. Rows
/// that have to do with each other are one group; the groups come first.
fn in_order(waits_for: &[Vec<usize>]) -> Vec<Place> {
    let groups = groups(waits_for);
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); waits_for.len() + 1];
    groups.iter().enumerate().for_each(|(row, &group)| members[group].push(row));
    let mut waiting: Vec<usize> = waits_for.iter().map(Vec::len).collect();
    let mut takers: Vec<Vec<usize>> = vec![Vec::new(); waits_for.len()];
    for (row, holders) in waits_for.iter().enumerate() {
        holders.iter().for_each(|&holder| takers[holder].push(row));
    }
    let (mut out, mut freed) = (vec![false; waits_for.len()], vec![false; waits_for.len()]);
    let mut places = Vec::with_capacity(waits_for.len());
    for rows in &members[1..] {
        let begin = places.len();
        let mut ready: Vec<usize> = rows.iter().copied().filter(|&row| waiting[row] == 0).collect();
        let mut stuck = rows.iter().copied();
        while places.len() - begin < rows.len() {
            let free = match ready.pop() {
                Some(row) if out[row] => continue,
                Some(row) => {
                    out[row] = true;
                    places.push(row);
                    row
                }
                // A circle: the first one that is left gives way.
                None => match stuck.next() {
                    Some(row) if out[row] => continue,
                    Some(row) => row,
                    None => break, // by then all have, and none waits
                },
            };
            if std::mem::replace(&mut freed[free], true) {
                continue; // those behind it know already
            }
            for &taker in &takers[free] {
                waiting[taker] -= 1;
                if waiting[taker] == 0 {
                    ready.push(taker);
                }
            }
        }
    }
    places.extend(&members[0]);
    let mut at = vec![0; places.len()];
    places.iter().enumerate().for_each(|(place, &row)| at[row] = place);
    // It gives way to whoever takes what it holds and is written before it.
    let gives_way = |row: usize| takers[row].iter().any(|&taker| at[taker] < at[row]);
    places.iter().map(|&row| Place { row, group: groups[row], gives_way: gives_way(row) }).collect()
}

/// The number of each row's group, from 1 on; 0 where it waits for none and none waits for it.
fn groups(waits_for: &[Vec<usize>]) -> Vec<usize> {
    let mut joined: Vec<Vec<usize>> = vec![Vec::new(); waits_for.len()];
    for (row, holders) in waits_for.iter().enumerate() {
        for &holder in holders {
            joined[row].push(holder);
            joined[holder].push(row);
        }
    }
    let mut group = vec![0; waits_for.len()];
    let mut next = 0;
    for row in 0..joined.len() {
        if group[row] > 0 || joined[row].is_empty() {
            continue;
        }
        next += 1;
        let mut open = vec![row];
        while let Some(row) = open.pop() {
            if group[row] == 0 {
                group[row] = next;
                open.extend(&joined[row]);
            }
        }
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(row: usize, group: usize, gives_way: bool) -> Place {
        Place { row, group, gives_way }
    }

    fn values(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| Some(*text).filter(|text| !text.is_empty()).map(str::to_owned)).collect()
    }

    #[test]
    fn who_is_to_have_what_another_one_still_holds_waits_for_it() {
        let mut waits_for = vec![Vec::new(); 4];
        // The first two change places, the third is as it was, the last one is to have nothing.
        holders(&values(&["b", "a", "c", ""]), &values(&["a", "b", "c", ""]), &mut waits_for);
        assert_eq!(waits_for, [vec![1], vec![0], vec![], vec![]]);
    }

    #[test]
    fn a_chain_is_written_from_its_end_and_of_a_circle_one_gives_way() {
        // 0 waits for 1, 1 for 2; 3 for itself; 4, 5, 6 in a circle.
        let waits_for = [vec![1], vec![2], vec![], vec![], vec![5], vec![6], vec![4]];
        let order = in_order(&waits_for);
        let expected = [
            place(2, 1, false),
            place(1, 1, false),
            place(0, 1, false),
            place(6, 2, false),
            place(5, 2, false),
            place(4, 2, true),
            place(3, 0, false),
        ];
        assert_eq!(order, expected);
    }
}
