//! Writes rows of one form and kind, in as many requests as it takes, and finds out which of them are refused.

use tracing::info;

use super::Tables;
use super::form::FILTER_BYTES;
use super::latest::Item;
use super::send::Outcome;
use crate::apply::plan::Write;
use crate::apply::reread;
use crate::types::Fault;

/// Patches and changed keys are one request a row. So many rows of one batch are on their way at once: as many as
/// PostgREST has connections to the database, by default.
const PATCHES: usize = 8;

/// What a refusal means to the set that it is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing more of the set is written.
    Ends,
    /// The row waits, the others go on.
    Waits,
}

impl Tables {
    /// Writes rows of one form and kind; returns those that were refused, or, where a refusal ends it, all that were
    /// with them.
    pub(super) async fn attempt(&mut self, items: Vec<Item>, refusal: Refusal) -> Result<Vec<Item>, Fault> {
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
        let row = reread::row(&item.relation, item.row(), item.xid, &item.form.mapped, &mut self.reader).await?;
        let Some(row) = row else { return Ok(false) };
        item.write = Write::Upsert(row);
        item.incomplete = false;
        Ok(true)
    }
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
