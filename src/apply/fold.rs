//! Keeps the last state of each row of a batch. In-order replay would leave the same rows behind.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;

use super::encode::{Op, Rows};
use super::plan::{Write, key};
use super::shape::Mapped;

#[derive(Default)]
pub struct Fold {
    tables: Vec<Table>,
}

struct Table {
    mapped: Arc<Mapped>,
    slots: Vec<Slot>,
    index: HashTable<usize>,
    hasher: RandomState,
}

struct Slot {
    key: Vec<u8>,
    last: Write,
    /// The row was deleted and came again: columns that only the target has must start afresh.
    reborn: bool,
}

impl Fold {
    /// Takes a write, or gives it back when it can only come after all that was taken so far.
    pub fn add(&mut self, mapped: &Arc<Mapped>, write: Write) -> Result<(), Write> {
        let at = match self.tables.iter().position(|table| Arc::ptr_eq(&table.mapped, mapped)) {
            Some(at) => at,
            // The table's columns changed in mid-batch: rows of two forms do not fold.
            None if self.tables.iter().any(|table| table.mapped.table == mapped.table) => return Err(write),
            None => {
                let (slots, index) = (Vec::new(), HashTable::new());
                self.tables.push(Table { mapped: mapped.clone(), slots, index, hasher: RandomState::new() });
                self.tables.len() - 1
            }
        };
        self.tables[at].add(write)
    }

    /// Everything that was taken, as sets: for each table deletes, then patches, then upserts.
    pub fn drain(&mut self) -> impl Iterator<Item = (Arc<Mapped>, Rows)> {
        self.tables.drain(..).flat_map(|table| {
            let mapped = table.mapped.clone();
            table.sets().into_iter().map(move |rows| (mapped.clone(), rows))
        })
    }
}

impl Table {
    fn add(&mut self, write: Write) -> Result<(), Write> {
        let row = match &write {
            Write::Upsert(row) | Write::Patch(row) | Write::Delete(row) => row,
            Write::Rekey { .. } => return Err(write),
        };
        let key = key(row, &self.mapped);
        let hash = self.hasher.hash_one(&key);
        let Some(&at) = self.index.find(hash, |&at| self.slots[at].key == key) else {
            let (slots, hasher) = (&self.slots, &self.hasher);
            self.index.insert_unique(hash, slots.len(), |&at| hasher.hash_one(&slots[at].key));
            self.slots.push(Slot { key, last: write, reborn: false });
            return Ok(());
        };
        let slot = &mut self.slots[at];
        slot.last = match (&slot.last, write) {
            (Write::Upsert(row), Write::Patch(patch)) => Write::Upsert(row.overlaid(&patch)),
            (Write::Patch(row), Write::Patch(patch)) => Write::Patch(row.overlaid(&patch)),
            (Write::Delete(_), patch @ Write::Patch(_)) => return Err(patch), // no such row: in-order replay will say so
            (Write::Delete(_), Write::Upsert(row)) => {
                slot.reborn = true;
                Write::Upsert(row)
            }
            (_, write) => write,
        };
        Ok(())
    }

    fn sets(self) -> Vec<Rows> {
        let mapped = &self.mapped;
        let (mut deletes, mut patches, mut upserts) = (None, Vec::<Rows>::new(), None);
        let push = |set: &mut Option<Rows>, write: Write| {
            set.get_or_insert_with(|| Rows::new(Op::of(&write), &write, mapped)).push_unique(write);
        };
        for Slot { last, reborn, .. } in self.slots {
            match last {
                Write::Upsert(row) => {
                    if reborn {
                        push(&mut deletes, Write::Delete(row.clone()));
                    }
                    push(&mut upserts, Write::Upsert(row));
                }
                Write::Patch(row) => {
                    let write = Write::Patch(row);
                    match patches.iter_mut().find(|set| set.has_columns_of(&write, mapped)) {
                        Some(set) => set.push_unique(write),
                        None => {
                            let mut set = Rows::new(Op::Patch, &write, mapped);
                            set.push_unique(write);
                            patches.push(set);
                        }
                    }
                }
                delete => push(&mut deletes, delete),
            }
        }
        deletes.into_iter().chain(patches).chain(upserts).collect()
    }
}
