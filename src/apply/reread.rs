//! Changes that bring a row only in part: unchanged TOASTed values are not in the WAL. Where the target cannot have the
//! rest, the row is read again from the source, whole.
//!
//! What is read is younger than the change. That is sound: everything that happened to the row since follows in the
//! stream and lands on the same values again. A row that is gone meanwhile is left out; the stream tells its end. The key
//! may be another row's by then. The stream tells that row's beginning too; but a key that changes would take a large value
//! of it along, so until the stream is there ([`Ahead`]), each such change is completed itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tracing::info;

use super::Settings;
use super::ahead::Ahead;
use super::answer::Lost;
use super::plan::{key, with_key};
use super::shape::{Mapped, Shapes};
use crate::types::{Batch, Cell, Change, Fault, Position, Relation, Reread, TableName, Tuple};

/// What reads rows again, and remembers where.
pub struct Rereader {
    rereads: mpsc::Sender<Reread>,
    ahead: Ahead,
}

impl Rereader {
    pub fn new(rereads: mpsc::Sender<Reread>) -> Self {
        Self { rereads, ahead: Ahead::default() }
    }

    pub fn ahead(&self) -> &Ahead {
        &self.ahead
    }
}

/// How much a batch may grow to, and whether a table may be set aside where that is not enough.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    pub bytes: usize,
    pub park: bool,
}

/// Completes rows that got a new key while their table is copied: the old key's row may not be there yet, and no later
/// range will bring the new one. Found out one refusal at a time, a batch with many of them would never end. And where the
/// row under the old key may be younger than the change. Beyond `most` bytes the table is better compared.
pub async fn complete(
    batch: &mut Batch,
    base: Position,
    copying: &HashSet<TableName>,
    shapes: &mut Shapes,
    reader: &mut Rereader,
    most: Most,
) -> Result<(), Fault> {
    for at in 0..batch.changes.len() {
        let Some(Change::Update { relation, old: Some(old), new }) = batch.changes.get(at) else { continue };
        if !new.is_partial() {
            continue;
        }
        let Some(mapped) = shapes.of(relation, batch.upto)? else { continue };
        let wanted = copying.contains(&mapped.table) || reader.ahead.holds(&mapped.table, base);
        let part = with_key(old, new, &mapped);
        if !wanted || key(old, &mapped) == key(&part, &mapped) {
            continue;
        }
        if batch.bytes > most.bytes {
            return Err(too_many(&mapped.table, most.park));
        }
        let (relation, old) = (relation.clone(), old.clone());
        batch.changes[at] = match row(&relation, &part, batch.xid_of(at), &mapped, reader).await? {
            Some(row) => {
                batch.bytes += row.size();
                Change::Update { relation, old: Some(old), new: row.overlaid(&part) }
            }
            None => Change::Delete { relation, old },
        };
    }
    Ok(())
}

/// Rows that are read at once.
const ROWS: usize = 500;

/// Puts whole rows in the place of changes of rows that the target has lost, or holds only in a stale form. The batch may
/// grow to what is applied as a whole at most; where it would grow further, comparing the table is the better way.
pub async fn complete_lost(
    batch: &mut Batch,
    lost: &[Lost],
    shapes: &mut Shapes,
    reader: &mut Rereader,
    settings: &Settings,
) -> Result<(), Fault> {
    let mut keys: HashMap<TableName, HashSet<&[String]>> = HashMap::new();
    for lost in lost {
        keys.entry(lost.table()).or_default().extend(lost.keys.iter().map(Vec::as_slice));
    }
    if keys.values().all(HashSet::is_empty) {
        return Ok(()); // they came in this very moment
    }
    let mut partial = Partial::default();
    let mut moved = 0;
    for at in (0..batch.changes.len()).rev() {
        let Some(Change::Update { relation, old, new }) = batch.changes.get(at) else { continue };
        let Some(mapped) = shapes.of(relation, batch.upto)? else { continue };
        let Some(keys) = keys.get(&mapped.table) else { continue };
        let here = texts(new, old.as_ref(), &mapped)?;
        let before = old.as_ref().map(|old| texts(old, None, &mapped)).transpose()?.filter(|before| *before != here);
        if !keys.contains(here.as_slice()) && before.as_ref().is_none_or(|before| !keys.contains(before.as_slice())) {
            continue;
        }
        if new.is_partial() {
            partial.add(at, relation, &mapped, here, batch.xid_of(at));
        } else if let (Some(_), Some(old)) = (before, old) {
            // The row came whole, so nothing is missing but the row under its old key.
            let end = Change::Delete { relation: relation.clone(), old: old.clone() };
            let new = Change::Insert { relation: relation.clone(), new: new.clone() };
            splice(batch, at, end, Some(new));
            partial.behind(at);
            moved += 1;
        }
    }
    if partial.places() + moved == 0 {
        let tables: Vec<String> = keys.keys().map(TableName::to_string).collect();
        let cause = format!("the target misses rows of {} that came whole", tables.join(", "));
        return Err(Fault::stop(cause, "report this as a bug"));
    }
    partial.read(batch, reader, settings).await
}

/// Changes that bring a row only in part, by what reads them.
#[derive(Default)]
struct Partial {
    of: Vec<Part>,
}

struct Part {
    relation: Arc<Relation>,
    mapped: Arc<Mapped>,
    /// The places of the changes, and their rows' keys.
    changes: Vec<(usize, Vec<String>)>,
    xids: HashSet<u32>,
}

impl Partial {
    fn add(&mut self, at: usize, relation: &Arc<Relation>, mapped: &Arc<Mapped>, key: Vec<String>, xid: Option<u32>) {
        let place = self.of.iter().position(|part| Arc::ptr_eq(&part.relation, relation)).unwrap_or_else(|| {
            let (relation, mapped) = (relation.clone(), mapped.clone());
            self.of.push(Part { relation, mapped, changes: Vec::new(), xids: HashSet::new() });
            self.of.len() - 1
        });
        self.of[place].changes.push((at, key));
        self.of[place].xids.extend(xid.filter(|&xid| xid > 0));
    }

    fn places(&self) -> usize {
        self.of.iter().map(|part| part.changes.len()).sum()
    }

    /// One change more was put in behind this place.
    fn behind(&mut self, at: usize) {
        let changes = self.of.iter_mut().flat_map(|part| &mut part.changes);
        changes.filter(|(place, _)| *place > at).for_each(|(place, _)| *place += 1);
    }

    async fn read(self, batch: &mut Batch, reader: &mut Rereader, settings: &Settings) -> Result<(), Fault> {
        let mut whole: Vec<(usize, Option<Tuple>)> = Vec::with_capacity(self.places());
        let mut room = settings.whole_bytes.saturating_sub(batch.bytes);
        for Part { relation, mapped, changes, xids } in self.of {
            let mut keys: Vec<&Vec<String>> = changes.iter().map(|(_, key)| key).collect();
            keys.sort_unstable();
            keys.dedup();
            info!(table = %mapped.table, rows = keys.len(), "the target misses rows; they are read again from the source");
            let mut rows: HashMap<&Vec<String>, Option<Tuple>> = HashMap::with_capacity(keys.len());
            for some in keys.chunks(ROWS) {
                let wanted = some.iter().map(|key| (*key).clone()).collect();
                let xids = xids.iter().copied().collect();
                let read = ask(reader, &mapped.table, &relation, mapped.key_names.clone(), wanted, xids, room).await?;
                let read = read.ok_or_else(|| too_many(&mapped.table, settings.park_rows.is_some()))?;
                let bytes: usize = read.iter().flatten().map(Tuple::size).sum();
                (room, batch.bytes) = (room.saturating_sub(bytes), batch.bytes + bytes);
                rows.extend(some.iter().copied().zip(read));
            }
            whole.extend(changes.iter().map(|(at, key)| (*at, rows.get(key).cloned().flatten())));
        }
        // From behind, since one change may become two.
        whole.sort_unstable_by_key(|(at, _)| std::cmp::Reverse(*at));
        whole.into_iter().for_each(|(at, row)| put(batch, at, row));
        Ok(())
    }
}

/// Puts the row as it is now, or its end, in the place of a change that brought a part of it.
fn put(batch: &mut Batch, at: usize, row: Option<Tuple>) {
    let Some(Change::Update { relation, old, new }) = batch.changes.get(at) else { return };
    let relation = relation.clone();
    // An old row without a new key is looked at as if it had one: then its end is told twice, or its key set to itself.
    match (row.map(|row| row.overlaid(new)), old.clone(), new.clone()) {
        (Some(new), Some(old), _) => splice(batch, at, Change::Update { relation, old: Some(old), new }, None),
        (Some(new), None, _) => splice(batch, at, Change::Insert { relation, new }, None),
        (None, Some(old), new) => {
            let end = Change::Delete { relation: relation.clone(), old };
            splice(batch, at, end, Some(Change::Delete { relation, old: new }));
        }
        (None, None, new) => splice(batch, at, Change::Delete { relation, old: new }, None),
    }
}

fn too_many(table: &TableName, park: bool) -> Fault {
    let cause = format!("so many rows must be read again that {table} is compared and repaired as a whole");
    match park {
        true => Fault::Park { table: table.clone(), cause },
        false => Fault::stop(cause, format!("run: lockstep tables resync {table}")),
    }
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

/// The row with the same key as this part of it.
pub async fn row(
    relation: &Arc<Relation>,
    part: &Tuple,
    xid: Option<u32>,
    mapped: &Mapped,
    reader: &mut Rereader,
) -> Result<Option<Tuple>, Fault> {
    one(reader, &mapped.table, relation, mapped.key_names.clone(), texts(part, None, mapped)?, xid).await
}

/// One row by its key.
pub async fn one(
    reader: &mut Rereader,
    table: &TableName,
    relation: &Arc<Relation>,
    names: Vec<String>,
    key: Vec<String>,
    xid: Option<u32>,
) -> Result<Option<Tuple>, Fault> {
    let rows = ask(reader, table, relation, names, vec![key], xid.into_iter().collect(), 0).await?;
    Ok(rows.and_then(|rows| rows.into_iter().next().flatten()))
}

async fn ask(
    reader: &mut Rereader,
    table: &TableName,
    relation: &Arc<Relation>,
    key: Vec<String>,
    rows: Vec<Vec<String>>,
    xids: Vec<u32>,
    most: usize,
) -> Result<Option<Vec<Option<Tuple>>>, Fault> {
    let (reply, read) = oneshot::channel();
    let gone = || Fault::retry("the reader of the source ended");
    let wish = Reread { relation: relation.clone(), key, rows, xids, most, reply };
    reader.rereads.send(wish).await.map_err(|_| gone())?;
    let read = read.await.map_err(|_| gone())?;
    reader.ahead.read(table, read.at);
    Ok(read.rows)
}

/// A row's key. One so long that it is TOASTed may come as unchanged; the old row holds it then.
fn texts(row: &Tuple, old: Option<&Tuple>, mapped: &Mapped) -> Result<Vec<String>, Fault> {
    let text = |row: &Tuple, place: usize| match row.cells().nth(place) {
        Some(Cell::Text(text)) => String::from_utf8(text.to_vec()).ok(),
        _ => None,
    };
    let parts = mapped.key_names.iter().zip(&mapped.key);
    let texts = parts.map(|(name, &place)| {
        text(row, place).or_else(|| text(old?, place)).ok_or_else(|| {
            Fault::stop(format!("{}: a change without its whole key ({name})", mapped.table), "report this as a bug")
        })
    });
    texts.collect()
}
