//! Decides what a batch writes: which statements, in which order, with which rows.
//!
//! The fast way (`Order::Free`) keeps only the last state of each row and writes table by table: deletes, patches,
//! upserts. It is right when the target leaves triggers and foreign keys to the source. The other way
//! (`Order::Source`) writes what the source did in the order in which the source did it.

use std::sync::Arc;

use super::encode::{Group, Op, Rows};
use super::fold::Fold;
use super::shape::{Mapped, Shapes};
use crate::types::{Batch, Cell, Change, Fault, TableName, Tuple, TupleBuilder};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The last write per key, set by set.
    Free,
    /// Neighbours of one kind together.
    Source,
    /// One row a group, so that a refusal names its row.
    Rows,
}

/// The groups of one request, and the values they refer to.
#[derive(Debug, Default)]
pub struct Plan {
    pub groups: Vec<Group>,
    pub values: Vec<u8>,
    /// Which change each group began with; exact with `Order::Rows`.
    pub origin: Vec<usize>,
    /// Row changes that went into it, before folding: (table, kind, count).
    pub counted: Vec<(TableName, &'static str, u64)>,
}

/// One row's change, ready to be written.
#[derive(Clone, Debug)]
pub enum Write {
    Upsert(Tuple),
    /// Only the columns that came.
    Patch(Tuple),
    /// Holds the key.
    Delete(Tuple),
    Rekey {
        old: Tuple,
        new: Tuple,
    },
}

/// Makes the plan. `copying` says of which tables the first copy is not finished.
pub fn plan(
    batch: &Batch,
    shapes: &mut Shapes,
    order: Order,
    copying: &dyn Fn(&TableName) -> bool,
) -> Result<Plan, Fault> {
    let mut planner = Planner { plan: Plan::default(), order, fold: Fold::default(), run: None };
    for (at, change) in batch.changes.iter().enumerate() {
        match change {
            Change::Truncate { relations, restart_identity, .. } => {
                let mut tables = Vec::new();
                for relation in relations {
                    if let Some(mapped) = shapes.of(relation, batch.upto)? {
                        planner.count(&mapped.table, "truncate");
                        tables.push(mapped.table.clone());
                    }
                }
                planner.barrier();
                if !tables.is_empty() {
                    planner.plan.groups.push(Group::truncate(&tables, *restart_identity));
                }
            }
            Change::Message { .. } => {}
            Change::Insert { relation, .. } | Change::Update { relation, .. } | Change::Delete { relation, .. } => {
                let Some(mapped) = shapes.of(relation, batch.upto)? else { continue };
                let (kind, write) = write(change, &mapped)?;
                planner.count(&mapped.table, kind);
                match write {
                    // The row of a table that is still being copied may not be there yet, and its new key may lie in a
                    // range that is done: bring it whole. Where others act on a delete it is an update all the same.
                    Write::Rekey { old, new }
                        if order == Order::Free && !new.is_partial() && copying(&mapped.table) =>
                    {
                        planner.push(&mapped, Write::Delete(old));
                        planner.push(&mapped, Write::Upsert(new));
                    }
                    write => planner.push(&mapped, write),
                }
            }
        }
        planner.plan.origin.resize(planner.plan.groups.len(), at);
    }
    planner.barrier();
    planner.plan.origin.resize(planner.plan.groups.len(), batch.changes.len().saturating_sub(1));
    if order == Order::Rows {
        // Should the row be set aside, it is read again by who can see this transaction.
        for (group, &at) in planner.plan.groups.iter_mut().zip(&planner.plan.origin) {
            group.xid = batch.xid_of(at).filter(|&xid| xid > 0);
        }
    }
    Ok(planner.plan)
}

/// What a change of one row comes to, and its name for people.
pub fn write(change: &Change, mapped: &Mapped) -> Result<(&'static str, Write), Fault> {
    if let Change::Update { old: Some(old), .. } | Change::Delete { old, .. } = change
        && old.cells().enumerate().any(|(at, cell)| cell == Cell::Null && mapped.key.contains(&at))
    {
        let key = mapped.key_names.join(", ");
        let cause = format!(
            "the stream names a row without its key ({key}): a partition has another replica identity than its table"
        );
        return Err(Fault::Park { table: mapped.table.clone(), cause });
    }
    Ok(match change {
        Change::Insert { new, .. } => ("insert", Write::Upsert(new.clone())),
        Change::Delete { old, .. } => ("delete", Write::Delete(old.clone())),
        Change::Update { old: Some(old), new, .. } => {
            let new = with_key(old, new, mapped);
            let write = match (key(old, mapped) == key(&new, mapped), new.is_partial()) {
                (false, _) => Write::Rekey { old: old.clone(), new },
                (true, true) => Write::Patch(new),
                (true, false) => Write::Upsert(new),
            };
            ("update", write)
        }
        Change::Update { new, .. } if new.is_partial() => ("update", Write::Patch(new.clone())),
        Change::Update { new, .. } => ("update", Write::Upsert(new.clone())),
        Change::Truncate { .. } | Change::Message { .. } => unreachable!("these change no single row"),
    })
}

/// A key so long that it is TOASTed comes as unchanged; the old row, which is there then, holds it.
pub fn with_key(old: &Tuple, new: &Tuple, mapped: &Mapped) -> Tuple {
    let missing = |at: usize, cell: Cell<'_>| cell == Cell::Unchanged && mapped.key.contains(&at);
    if !new.cells().enumerate().any(|(at, cell)| missing(at, cell)) {
        return new.clone();
    }
    let mut whole = TupleBuilder::new();
    for (at, (before, cell)) in old.cells().zip(new.cells()).enumerate() {
        whole.push(if missing(at, cell) { before } else { cell });
    }
    whole.finish()
}

pub fn key(row: &Tuple, mapped: &Mapped) -> Vec<u8> {
    let mut key = Vec::with_capacity(32);
    row.key(&mapped.key, &mut key);
    key
}

struct Planner {
    plan: Plan,
    order: Order,
    fold: Fold,
    run: Option<(Arc<Mapped>, Rows)>,
}

impl Planner {
    fn count(&mut self, table: &TableName, kind: &'static str) {
        match self.plan.counted.iter_mut().rev().find(|(name, seen, _)| *seen == kind && name == table) {
            Some((_, _, count)) => *count += 1,
            None => self.plan.counted.push((table.clone(), kind, 1)),
        }
    }

    fn push(&mut self, mapped: &Arc<Mapped>, write: Write) {
        match (self.order, write) {
            // A changed key is an update of the old row; what comes before and after it must stay there. Only its like
            // is with it.
            (Order::Free, write @ Write::Rekey { .. }) => {
                if self.run.is_none() {
                    self.barrier();
                }
                self.append(mapped, write);
            }
            (Order::Free, write) => {
                self.end_run();
                if let Err(write) = self.fold.add(mapped, write) {
                    self.barrier();
                    // An empty fold takes any single row's write.
                    let _ = self.fold.add(mapped, write);
                }
            }
            (Order::Source, write) => self.append(mapped, write),
            (Order::Rows, write) => {
                self.append(mapped, write);
                self.barrier();
            }
        }
    }

    /// Adds to the run of like neighbours, or starts a new one.
    fn append(&mut self, mapped: &Arc<Mapped>, write: Write) {
        if let Some((of, run)) = &mut self.run
            && Arc::ptr_eq(of, mapped)
            && run.takes(&write, mapped)
        {
            return run.push(write, mapped);
        }
        self.end_run();
        let mut run = Rows::new(Op::of(&write), &write, mapped);
        run.push(write, mapped);
        self.run = Some((mapped.clone(), run));
    }

    fn end_run(&mut self) {
        if let Some((mapped, run)) = self.run.take() {
            self.plan.groups.push(run.encode(&mapped, &mut self.plan.values));
        }
    }

    /// Writes out what has gathered; what follows comes after it.
    fn barrier(&mut self) {
        self.end_run();
        for (mapped, rows) in self.fold.drain() {
            self.plan.groups.push(rows.encode(&mapped, &mut self.plan.values));
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
