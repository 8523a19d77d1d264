//! A change that brings a row only in part (unchanged TOASTed values are not in the WAL) and whose row the target does
//! not have: the row is read again from the source, whole.
//!
//! What is read is younger than the change. That is sound: everything that happened to the row since follows in the
//! stream and lands on the same values again. A row that is gone meanwhile is left out; the stream tells its end.

use tokio::sync::{mpsc, oneshot};
use tracing::info;

use super::shape::Shapes;
use crate::types::{Batch, Cell, Change, Fault, Reread};

pub async fn replace(
    batch: &mut Batch,
    change: usize,
    shapes: &mut Shapes,
    rereads: &mpsc::Sender<Reread>,
) -> Result<(), Fault> {
    let Some(Change::Update { relation, new, .. }) = batch.changes.get(change) else {
        return Err(Fault::stop("the target misses a row that came whole", "report this as a bug"));
    };
    let Some(mapped) = shapes.of(relation, batch.upto)? else { return Ok(()) };
    let mut key = Vec::with_capacity(mapped.key.len());
    for (name, &at) in mapped.key_names.iter().zip(&mapped.key) {
        let text = match new.cells().nth(at) {
            Some(Cell::Text(text)) => String::from_utf8(text.to_vec()).ok(),
            _ => None,
        };
        let text = text.ok_or_else(|| {
            Fault::stop(format!("{}: a change without its whole key ({name})", mapped.table), "report this as a bug")
        })?;
        key.push((name.clone(), text));
    }
    let shown: Vec<String> = key.iter().map(|(name, text)| format!("{name}={text}")).collect();
    info!(table = %mapped.table, key = shown.join(", "), "the target misses a row; it is read again from the source");

    let (reply, row) = oneshot::channel();
    let gone = |_| Fault::retry("the reader of the source ended");
    rereads.send(Reread { relation: relation.clone(), key, reply }).await.map_err(|_| gone(()))?;
    let row = row.await.map_err(|_| gone(()))?;
    let relation = relation.clone();
    batch.changes[change] = match row {
        Some(new) => Change::Insert { relation, new },
        None => Change::Delete { relation, old: new.clone() },
    };
    Ok(())
}
