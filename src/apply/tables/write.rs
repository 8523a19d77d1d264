//! Writes one batch to the tables, request by request. Each request is a transaction of its own, so anything may be
//! left half done at any moment; what is written here comes to the same when it is written again from an earlier point.
//!
//! Mostly a batch is folded: the last state of each row, parents before children, then deletes. Where the target refuses
//! that (a unique value that changed hands within the batch), the batch is written in the source's order. What is
//! refused even so waits: in a batch that was written before, in part or beyond, the target may be ahead of a row, and a
//! later change of the same row will take its place.

use std::sync::Arc;

use tracing::{info, warn};

use super::Tables;
use super::form::{FILTER_BYTES, Form};
use super::latest::{self, Item, Latest};
use super::send::Outcome;
use super::steps::Step;
use super::words;
use crate::apply::plan::Write;
use crate::apply::reread;
use crate::types::Fault;

/// What waits because it was refused, in memory. Some hundred thousand small rows: as many as a parent table may lag
/// behind in a first copy. Beyond it the route stops and says so.
const WAITING_BYTES: usize = 32 << 20;

/// Patches and changed keys are one request a row. So many rows of one batch are on their way at once: as many as
/// PostgREST has connections to the database, by default.
const PATCHES: usize = 8;

impl Tables {
    /// Writes the steps; what was refused waits in `held`.
    pub(super) async fn write(&mut self, steps: Vec<Step>) -> Result<(), Fault> {
        // In this order the last state of each row is not enough: rows wait for one another.
        let waiting = self.held.items().any(|item| item.refusal.is_some());
        if waiting || !self.folded(&steps).await? {
            if !waiting {
                crate::metrics::get().replays.inc();
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
                    self.held.take(&item.place());
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

    /// While the target may be ahead, a row that goes now may be there again later, and others refer to it then: deleted
    /// now, it would take rows along which nothing brings back. So it goes last, if it does not come again.
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

    /// A changed key that may be refused: then the row is written under its new key, and the old one goes at the end,
    /// when all that refers to it has been written anew.
    async fn rekey_in_order(&mut self, item: Item) -> Result<(), Fault> {
        let Write::Rekey { old, .. } = &item.write else { return Ok(()) };
        let gone = Item { write: Write::Delete(old.clone()), ..item.clone() };
        let waits = self.held.take(&gone.place()).filter(|before| before.refusal.is_some());
        let row = match waits {
            Some(before) => {
                self.held.add(gone);
                latest::renamed(before, renamed(&item))
            }
            None if self.rekey(&item).await? => return Ok(()),
            None => {
                self.held.add(gone);
                renamed(&item)
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
        let mut left = usize::MAX;
        while !self.held.is_empty() && self.held.len() < left {
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

    /// Tables are emptied one by one, the ones that others refer to when these are empty.
    async fn truncate(&mut self, forms: &[Arc<Form>]) -> Result<(), Fault> {
        let mut left: Vec<_> = forms.to_vec();
        left.sort_by_key(|form| std::cmp::Reverse(self.facts.rank.get(&form.oid).copied().unwrap_or(0)));
        loop {
            let (before, mut refused, mut why) = (left.len(), Vec::new(), None);
            for form in left {
                match self.wire.empty(&form).await? {
                    Outcome::Done { .. } => {}
                    Outcome::TooMuch(failure) => {
                        warn!(table = %form.mapped.table, cause = %failure, "emptying it takes too long at once");
                        self.wire.empty_by_parts(&form).await?;
                    }
                    Outcome::Refused(failure) => {
                        why = Some((form.mapped.table.clone(), failure));
                        refused.push(form);
                    }
                }
            }
            match why {
                None => return Ok(()),
                Some((table, failure)) if refused.len() == before => return Err(words::not_emptied(&table, &failure)),
                Some(_) => left = refused,
            }
        }
    }

    /// Writes rows of one form and kind; returns those that were refused, or, where a refusal ends it, all that were
    /// with them.
    async fn attempt(&mut self, items: Vec<Item>, refusal: Refusal) -> Result<Vec<Item>, Fault> {
        let patches = |item: &Item| matches!(item.write, Write::Patch(_)) && !item.incomplete;
        if items.len() > 1 && items.iter().all(patches) {
            return self.patches(items, refusal).await;
        }
        let mut refused = Vec::new();
        let mut parts = parts(items, self.request_bytes);
        parts.reverse();
        while let Some(mut part) = parts.pop() {
            if let [item] = &mut part[..]
                && item.incomplete
                && !self.complete(item).await?
            {
                continue;
            }
            let outcome = self.wire.write(&part).await?;
            match (outcome, &part[..]) {
                (Outcome::Done { rows: Some(0) }, [Item { write: Write::Patch(_), .. }]) => {
                    parts.extend(self.missing(part).await?);
                }
                (Outcome::Done { .. }, _) => {}
                (Outcome::Refused(failure), _) if refusal == Refusal::Ends => {
                    info!(table = %part[0].form.mapped.table, cause = %failure, "a set was refused");
                    return Ok(part);
                }
                (Outcome::Refused(failure) | Outcome::TooMuch(failure), [_]) => {
                    refused.extend(part.into_iter().map(|item| Item { refusal: Some(failure.clone()), ..item }));
                }
                // One of them, or all at once.
                (Outcome::Refused(_) | Outcome::TooMuch(_), _) => {
                    let second = part.split_off(part.len() / 2);
                    parts.extend([second, part]);
                }
            }
        }
        Ok(refused)
    }

    /// Patches of different rows, several at once.
    async fn patches(&mut self, items: Vec<Item>, refusal: Refusal) -> Result<Vec<Item>, Fault> {
        use futures_util::{StreamExt, TryStreamExt};
        let wire = self.wire.clone();
        let sent = items.into_iter().map(|item| {
            let wire = wire.clone();
            async move { Ok::<_, Fault>((wire.write(std::slice::from_ref(&item)).await?, item)) }
        });
        let done: Vec<(Outcome, Item)> = futures_util::stream::iter(sent).buffered(PATCHES).try_collect().await?;
        let mut refused = Vec::new();
        for (outcome, item) in done {
            match outcome {
                Outcome::Done { rows: Some(0) } => {
                    if let Some(part) = self.missing(vec![item]).await? {
                        refused.extend(Box::pin(self.attempt(part, refusal)).await?);
                    }
                }
                Outcome::Done { .. } => {}
                Outcome::Refused(failure) | Outcome::TooMuch(failure) => {
                    refused.push(Item { refusal: Some(failure), ..item });
                }
            }
        }
        Ok(refused)
    }

    /// A row to patch that the target does not have. While its table is copied, a later range brings it.
    async fn missing(&mut self, mut part: Vec<Item>) -> Result<Option<Vec<Item>>, Fault> {
        let Some(item) = part.first_mut() else { return Ok(None) };
        if self.copying.contains(&item.form.mapped.table) {
            return Ok(None);
        }
        info!(table = %item.form.mapped.table, "the target misses a row; it is read again from the source");
        item.incomplete = true;
        Ok(Some(part))
    }

    /// Reads the row again; false when it is gone, which the stream will tell too.
    async fn complete(&mut self, item: &mut Item) -> Result<bool, Fault> {
        let row = reread::row(&item.relation, item.row(), item.xid, &item.form.mapped, &self.rereads).await?;
        let Some(row) = row else { return Ok(false) };
        item.write = Write::Upsert(row);
        item.incomplete = false;
        Ok(true)
    }
}

/// What a refusal means to the set that it is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// Nothing more of the set is written.
    Ends,
    /// The row waits, the others go on.
    Waits,
}

/// The row under its new key.
fn renamed(item: &Item) -> Item {
    let Write::Rekey { new, .. } = &item.write else { return item.clone() };
    let write = if new.is_partial() { Write::Patch(new.clone()) } else { Write::Upsert(new.clone()) };
    Item { write, ..item.clone() }
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

/// Cut to requests: by the size of the body, by the length of the address. What is read again first stands alone.
fn parts(items: Vec<Item>, request_bytes: usize) -> Vec<Vec<Item>> {
    let mut parts: Vec<Vec<Item>> = Vec::new();
    let mut size = usize::MAX;
    for item in items {
        let (cost, most) = match &item.write {
            Write::Upsert(row) => (row.size(), request_bytes),
            // Too long alone, it is refused when it is sent.
            Write::Delete(row) => (item.form.filter(row).map_or(FILTER_BYTES, |filter| filter.len() + 1), FILTER_BYTES),
            Write::Patch(_) | Write::Rekey { .. } => (1, 1),
        };
        let alone = item.incomplete;
        match parts.last_mut() {
            Some(part) if size.saturating_add(cost) <= most && !alone => {
                part.push(item);
                size += cost;
            }
            _ => {
                parts.push(vec![item]);
                size = if alone { usize::MAX } else { cost };
            }
        }
    }
    parts
}
