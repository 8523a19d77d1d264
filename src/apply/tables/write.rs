//! Writes one batch to the tables, request by request. Each request is a transaction of its own, so anything may be
//! left half done at any moment; what is written here comes to the same when it is written again from an earlier point.
//!
//! Mostly a batch is folded: the last state of each row, parents before children, then deletes. Where the target
//! refuses that (a unique value that changed hands within the batch), the batch is written in the source's order. What
//! is refused even so waits: in a batch that was written before, in part or beyond, the target may be ahead of a row,
//! and a later change of the same row will take its place.

use std::sync::Arc;

use super::Tables;
use super::attempt::Refusal;
use super::latest::{self, Item, Latest};
use super::send::Outcome;
use super::steps::Step;
use super::words;
use crate::apply::plan::Write;
use crate::apply::reread;
use crate::types::{Cell, Fault, TupleBuilder};

/// What waits because it was refused, in memory. Some hundred thousand small rows: as many as a parent table may lag
/// behind in a first copy. Beyond it the route stops and says so.
const WAITING_BYTES: usize = 32 << 20;

impl Tables {
    /// Writes the steps; what was refused waits in `held`.
    pub(super) async fn write(&mut self, steps: Vec<Step>) -> Result<(), Fault> {
        // In this order the last state of each row is not enough: rows wait for one another.
        let waiting = self.held.items().any(|item| item.refusal.is_some());
        self.taken.clear();
        if waiting || !self.folded(&steps).await? {
            if !waiting {
                crate::metrics::get().replays.inc();
                // What was kept from earlier batches is needed once more.
                self.taken.drain(..).for_each(|item| self.held.add(item));
            }
            self.in_order(steps).await?;
        }
        self.write_held().await
    }

    /// The last state of each row; false when the target refuses something.
    async fn folded(&mut self, steps: &[Step]) -> Result<bool, Fault> {
        let mut latest = Latest::default();
        for step in steps {
            match step {
                Step::Row(item @ Item { write: Write::Rekey { .. }, .. }) => {
                    if !self.flush(&mut latest).await? || !self.rekey(item).await? {
                        return Ok(false);
                    }
                }
                Step::Row(item) => {
                    self.taken.extend(self.held.take(&item.place()));
                    latest.add(item.clone());
                }
                Step::Truncate(forms) => {
                    forms.iter().for_each(|form| latest.forget(form.oid));
                    forms.iter().for_each(|form| self.held.forget(form.oid));
                    self.truncate(forms).await?;
                }
            }
        }
        self.flush(&mut latest).await
    }

    /// Parents before children, then deletes: whatever refers to a row that goes has been written by then.
    async fn flush(&mut self, latest: &mut Latest) -> Result<bool, Fault> {
        let (deletes, mut rows): (Vec<Item>, Vec<Item>) =
            latest.drain().into_iter().partition(|item| matches!(item.write, Write::Delete(_)));
        rows.sort_by_key(|item| (self.rank(item), item.form.oid));
        let (kept, mut deletes): (Vec<Item>, Vec<Item>) = deletes.into_iter().partition(|item| self.is_kept(item));
        kept.into_iter().for_each(|item| self.held.add(item));
        deletes.sort_by_key(|item| (std::cmp::Reverse(self.rank(item)), item.form.oid));
        for run in runs(rows).into_iter().chain(runs(deletes)) {
            if !self.attempt(run, Refusal::Ends).await?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn rank(&self, item: &Item) -> usize {
        self.facts.rank.get(&item.form.oid).copied().unwrap_or(0)
    }

    /// While the target may be ahead, a row that goes now may be there again later, and others refer to it then:
    /// deleted now, it would take rows along which nothing brings back. So it goes last, if it does not come again.
    fn is_kept(&self, item: &Item) -> bool {
        self.replaying && self.facts.referenced.contains(&item.form.oid) && self.held.bytes() < WAITING_BYTES
    }

    /// Neighbours of one kind together, as the source wrote them; what is refused waits.
    async fn in_order(&mut self, steps: Vec<Step>) -> Result<(), Fault> {
        let mut run = Run::default();
        for step in steps {
            match step {
                Step::Truncate(forms) => {
                    self.end(&mut run).await?;
                    forms.iter().for_each(|form| self.held.forget(form.oid));
                    self.truncate(&forms).await?;
                }
                Step::Row(item @ Item { write: Write::Rekey { .. }, .. }) => {
                    self.end(&mut run).await?;
                    self.rekey_in_order(item).await?;
                }
                Step::Row(item) => self.next_in_order(item, &mut run).await?,
            }
        }
        self.end(&mut run).await
    }

    async fn next_in_order(&mut self, item: Item, run: &mut Run) -> Result<(), Fault> {
        let place = item.place();
        // A delete that was kept for the end is overtaken; a row that was refused waits on, in its newest state.
        match self.held.take(&place) {
            Some(before) if before.refusal.is_some() => {
                self.held.add(before);
                self.held.add(item);
                return Ok(());
            }
            _ => {}
        }
        let parent = self.facts.referenced.contains(&item.form.oid);
        if matches!(item.write, Write::Delete(_)) && parent {
            self.held.add(item);
            return Ok(());
        }
        if !run.takes(&item) {
            self.end(run).await?;
        }
        run.add(item);
        Ok(())
    }

    async fn end(&mut self, run: &mut Run) -> Result<(), Fault> {
        let refused = self.attempt(run.latest.drain(), Refusal::Waits).await?;
        refused.into_iter().for_each(|item| self.held.add(item));
        Ok(())
    }

    /// A changed key; false when it is refused.
    async fn rekey(&mut self, item: &Item) -> Result<bool, Fault> {
        let item = self.at_its_place(item.clone());
        let item = &self.whole(item).await?;
        if matches!(item.write, Write::Delete(_)) {
            return Ok(false); // in order, where it is known what hangs on it
        }
        match self.wire.write(std::slice::from_ref(item)).await? {
            Outcome::Done { rows: Some(0) } => {
                // It has its new key already, or the target has lost it.
                let rest = self.attempt(vec![renamed(item)], Refusal::Ends).await?;
                Ok(rest.is_empty())
            }
            Outcome::Done { .. } => Ok(true),
            Outcome::Refused(_) | Outcome::TooMuch(_) => Ok(false),
        }
    }

    /// A changed key whose old row may be younger than the change must not take a value of it along.
    async fn whole(&mut self, item: Item) -> Result<Item, Fault> {
        let Write::Rekey { old, new } = &item.write else { return Ok(item) };
        let base = self.untold.upto;
        if !new.is_partial() || !self.reader.ahead().holds(&item.form.mapped.table, base) {
            return Ok(item);
        }
        let row = reread::row(&item.relation, new, item.xid, &item.form.mapped, &mut self.reader).await?;
        let write = match row {
            Some(row) => Write::Rekey { old: old.clone(), new: row.overlaid(new) },
            None => Write::Delete(old.clone()),
        };
        Ok(Item { write, incomplete: false, ..item })
    }

    /// The new key may be that of a row which is to go, and is still there: what the change does not bring must not be
    /// taken from that one.
    fn at_its_place(&mut self, item: Item) -> Item {
        let overtaken = self.held.take(&item.place());
        let incomplete = item.incomplete || overtaken.is_some();
        self.taken.extend(overtaken);
        Item { incomplete, ..item }
    }

    /// A changed key that may be refused: then the row is written under its new key, and the old one goes at the end,
    /// when all that refers to it has been written anew.
    async fn rekey_in_order(&mut self, item: Item) -> Result<(), Fault> {
        let item = self.at_its_place(item);
        let item = self.whole(item).await?;
        let Write::Rekey { old, .. } = &item.write else {
            let mut run = Run::default();
            self.next_in_order(item, &mut run).await?;
            return self.end(&mut run).await;
        };
        // Nothing has to be known of a row that goes.
        let gone = Item { write: Write::Delete(old.clone()), incomplete: false, ..item.clone() };
        let waits = self.held.take(&gone.place()).filter(|before| before.refusal.is_some());
        let row = match waits {
            Some(before) => {
                self.held.add(gone);
                latest::renamed(before, renamed(&item))
            }
            None if self.rekey(&item).await? => return Ok(()),
            None => {
                self.held.add(gone);
                // Refused: there may be a row under the new key that is nobody's, of which nothing must stay.
                renamed(&Item { incomplete: true, ..item })
            }
        };
        let mut run = Run::default();
        self.next_in_order(row, &mut run).await?;
        self.end(&mut run).await
    }

    /// Writes what waits, as far as it can be written by now; says so when it never will.
    async fn write_held(&mut self) -> Result<(), Fault> {
        let over = self.held.bytes() > WAITING_BYTES;
        // More may come that takes the place of what waits.
        let patient = self.replaying || !self.copying.is_empty();
        let (mut left, mut loosened) = (usize::MAX, false);
        while !self.held.is_empty() {
            if self.held.len() >= left {
                // Rows that refer to each other in a circle: not one of them can be the first, as it is.
                if patient || loosened || !self.loosen().await? {
                    break;
                }
                loosened = true;
            }
            left = self.held.len();
            let (deletes, rest): (Vec<Item>, Vec<Item>) =
                self.held.drain().into_iter().partition(|item| matches!(item.write, Write::Delete(_)));
            let (mut rows, mut again) = (rest, Vec::new());
            if patient && !over && !self.copy_ended {
                again = std::mem::take(&mut rows);
            }
            rows.sort_by_key(|item| (self.rank(item), item.form.oid));
            for run in runs(rows) {
                again.extend(self.attempt(run, Refusal::Waits).await?);
            }
            let (kept, mut deletes): (Vec<Item>, Vec<Item>) = deletes.into_iter().partition(|item| self.is_kept(item));
            deletes.sort_by_key(|item| (std::cmp::Reverse(self.rank(item)), item.form.oid));
            for run in runs(deletes) {
                again.extend(self.attempt(run, Refusal::Waits).await?);
            }
            again.into_iter().chain(kept).for_each(|item| self.held.add(item));
        }
        self.copy_ended = false;
        let stuck = if over { self.held.bytes() > WAITING_BYTES } else { !patient };
        match self.held.items().find_map(|item| Some((item, item.refusal.as_ref()?))) {
            Some((item, failure)) if stuck => Err(words::refused(item, failure)),
            _ => Ok(()),
        }
    }

    /// Writes rows that wait for others without what they refer to, as far as that may be NULL; they go on waiting to
    /// be written as they are. Whether any was written.
    async fn loosen(&mut self) -> Result<bool, Fault> {
        let mut rows: Vec<Item> = self.held.items().filter_map(|item| self.without_reference(item)).collect();
        rows.sort_by_key(|item| (self.rank(item), item.form.oid));
        let mut written = false;
        for run in runs(rows) {
            let all = run.len();
            written |= self.attempt(run, Refusal::Waits).await?.len() < all;
        }
        Ok(written)
    }

    fn without_reference(&self, item: &Item) -> Option<Item> {
        let failure = item.refusal.as_ref().filter(|failure| failure.code.as_deref() == Some("23503"))?;
        let constraint = words::constraint(&failure.message)?.to_owned();
        let columns = self.facts.loose.get(&(item.form.oid, constraint))?;
        let Write::Upsert(row) = &item.write else { return None };
        let mut loose = TupleBuilder::new();
        for (place, cell) in row.cells().enumerate() {
            let name = item.form.mapped.columns.iter().find(|(at, _)| *at == place).map(|(_, name)| name);
            loose.push(if name.is_some_and(|name| columns.contains(name)) { Cell::Null } else { cell });
        }
        Some(Item { write: Write::Upsert(loose.finish()), refusal: None, ..item.clone() })
    }
}

/// The row under its new key.
fn renamed(item: &Item) -> Item {
    let Write::Rekey { new, .. } = &item.write else { return item.clone() };
    let (partial, new) = (new.is_partial(), new.clone());
    let write = if partial { Write::Patch(new) } else { Write::Upsert(new) };
    Item { write, incomplete: item.incomplete && partial, ..item.clone() }
}

/// Neighbours of one form and kind, each row once.
#[derive(Default)]
struct Run {
    latest: Latest,
}

impl Run {
    fn takes(&self, item: &Item) -> bool {
        let like = self.latest.items().next().is_none_or(|first| alike(first, item));
        like && !self.latest.holds(&item.place())
    }

    fn add(&mut self, item: Item) {
        self.latest.add(item);
    }
}

fn alike(one: &Item, other: &Item) -> bool {
    let kind = std::mem::discriminant(&one.write) == std::mem::discriminant(&other.write);
    kind && Arc::ptr_eq(&one.form, &other.form)
}

/// Rows of one form and kind together; they come in the order in which they are to be written.
fn runs(items: Vec<Item>) -> Vec<Vec<Item>> {
    let mut runs: Vec<Vec<Item>> = Vec::new();
    // A table's rows lie together, and of the last few runs one takes the next row.
    for item in items {
        let table = item.form.oid;
        let mut open = runs.iter_mut().rev().take_while(|run| run[0].form.oid == table);
        match open.find(|run| alike(&run[0], &item)) {
            Some(run) => run.push(item),
            None => runs.push(vec![item]),
        }
    }
    runs
}
