//! Changes that bring a row only in part: unchanged TOASTed values are not in the WAL. Where the target cannot have the
//! rest, the row is read again from the source, whole.
//!
//! What is read is younger than the change. That is sound: everything that happened to the row since follows in the
//! stream and lands on the same values again. A row that is gone meanwhile is left out; the stream tells its end.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tracing::info;

use super::plan::key;
use super::shape::{Mapped, Shapes};
use crate::types::{Batch, Cell, Change, Fault, Relation, Reread, TableName, Tuple};

/// Completes rows that got a new key while their table is copied: the old key's row may not be there yet, and no later
/// range will bring the new one. Found out one refusal at a time, a batch with many of them would never end.
pub async fn complete(
    batch: &mut Batch,
    copying: &HashSet<TableName>,
    shapes: &mut Shapes,
    rereads: &mpsc::Sender<Reread>,
) -> Result<(), Fault> {
    for at in 0..batch.changes.len() {
        let Some(Change::Update { relation, old: Some(old), new }) = batch.changes.get(at) else { continue };
        if !new.is_partial() {
            continue;
        }
        let Some(mapped) = shapes.of(relation, batch.upto)? else { continue };
        if !copying.contains(&mapped.table) || key(old, &mapped) == key(new, &mapped) {
            continue;
        }
        let (relation, old) = (relation.clone(), old.clone());
        batch.changes[at] = match read(batch, at, &mapped, rereads).await? {
            Some(new) => Change::Update { relation, old: Some(old), new },
            None => Change::Delete { relation, old },
        };
    }
    Ok(())
}

/// Puts whole rows in the place of changes whose rows the target has lost, or holds only in a stale form.
pub async fn replace_all(
    batch: &mut Batch,
    mut changes: Vec<usize>,
    shapes: &mut Shapes,
    rereads: &mpsc::Sender<Reread>,
) -> Result<(), Fault> {
    changes.sort_unstable();
    changes.dedup();
    // From behind, since one change may become two.
    for &at in changes.iter().rev() {
        replace(batch, at, shapes, rereads).await?;
    }
    Ok(())
}

async fn replace(
    batch: &mut Batch,
    at: usize,
    shapes: &mut Shapes,
    rereads: &mpsc::Sender<Reread>,
) -> Result<(), Fault> {
    let Some(Change::Update { relation, old, new }) = batch.changes.get(at) else {
        return Err(Fault::stop("the target misses a row that came whole", "report this as a bug"));
    };
    let Some(mapped) = shapes.of(relation, batch.upto)? else { return Ok(()) };
    let (relation, new) = (relation.clone(), new.clone());
    let moved = old.clone().filter(|old| key(old, &mapped) != key(&new, &mapped));
    if let Some(old) = &moved
        && !new.is_partial()
    {
        // The row came whole, so nothing is missing but the row under its old key.
        let end = Change::Delete { relation: relation.clone(), old: old.clone() };
        splice(batch, at, end, Some(Change::Insert { relation, new }));
        return Ok(());
    }
    info!(table = %mapped.table, "the target misses a row; it is read again from the source");
    let row = read(batch, at, &mapped, rereads).await?;
    match (row, moved) {
        (Some(new), Some(old)) => splice(batch, at, Change::Update { relation, old: Some(old), new }, None),
        (Some(new), None) => splice(batch, at, Change::Insert { relation, new }, None),
        (None, Some(old)) => {
            let end = Change::Delete { relation: relation.clone(), old };
            splice(batch, at, end, Some(Change::Delete { relation, old: new }));
        }
        (None, None) => splice(batch, at, Change::Delete { relation, old: new }, None),
    }
    Ok(())
}

/// Puts one or two changes in the place of one.
fn splice(batch: &mut Batch, at: usize, first: Change, second: Option<Change>) {
    batch.changes[at] = first;
    if let Some(second) = second {
        batch.changes.insert(at + 1, second);
        for (begin, _) in batch.begins.iter_mut().filter(|(begin, _)| *begin > at) {
            *begin += 1;
        }
    }
}

/// The row as it is now; `None` when it is gone.
async fn read(
    batch: &Batch,
    at: usize,
    mapped: &Mapped,
    rereads: &mpsc::Sender<Reread>,
) -> Result<Option<Tuple>, Fault> {
    let Some(Change::Update { relation, new, .. }) = batch.changes.get(at) else { return Ok(None) };
    row(relation, new, batch.xid_of(at), mapped, rereads).await
}

/// The row with the same key as this part of it.
pub async fn row(
    relation: &Arc<Relation>,
    part: &Tuple,
    xid: Option<u32>,
    mapped: &Mapped,
    rereads: &mpsc::Sender<Reread>,
) -> Result<Option<Tuple>, Fault> {
    let mut key = Vec::with_capacity(mapped.key.len());
    for (name, &place) in mapped.key_names.iter().zip(&mapped.key) {
        let text = match part.cells().nth(place) {
            Some(Cell::Text(text)) => String::from_utf8(text.to_vec()).ok(),
            _ => None,
        };
        let text = text.ok_or_else(|| {
            Fault::stop(format!("{}: a change without its whole key ({name})", mapped.table), "report this as a bug")
        })?;
        key.push((name.clone(), text));
    }
    let (reply, row) = oneshot::channel();
    let gone = || Fault::retry("the reader of the source ended");
    let wish = Reread { relation: relation.clone(), key, xid, reply };
    rereads.send(wish).await.map_err(|_| gone())?;
    row.await.map_err(|_| gone())
}
