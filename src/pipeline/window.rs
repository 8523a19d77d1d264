//! The stretch of the stream between the two watermarks of a range, and what it does to the range's rows.
//!
//! The rows were read at some moment between the marks. For every key that the stream touches in between, the stream
//! brings the truth itself; the other rows are still true at the second mark, and are merged into the stream there.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::types::{Batch, Cell, Change, Merged, Range, Relation, Tuple, TupleBuilder, Watermark};

/// Keys of one window that are remembered, in bytes. Beyond it the range is read again; ranges take well under a
/// second to read, so this is some 100,000 changes a second to one table.
const TOUCHED_BYTES: usize = 32 << 20;

/// Transactions whose numbers are remembered after they passed. One commits in the WAL a moment before it is visible
/// to others; a read in that moment misses what the stream has brought already. No more of them can be in that state
/// at once than the server has connections.
const RECENT: usize = 8192;

pub struct Windows {
    run: u64,
    /// Names of each table's key columns, by oid. The stream and the reader may order columns differently, and with
    /// REPLICA IDENTITY FULL the stream calls every column a key.
    keys: HashMap<u32, Vec<String>>,
    /// Oldest first. The copy has one open at a time, and so has each repair beside it.
    open: VecDeque<Window>,
    /// Ranges that were handed over and whose high watermark has not come by yet.
    handed: HashMap<u64, Range>,
    recent: VecDeque<u32>,
    /// The ranges that were merged last, one for each table.
    merged: HashMap<u32, u64>,
}

/// Windows open at a time. One that is pushed out was given up by its reader, or is read again.
const OPEN: usize = 16;

struct Window {
    range: u64,
    table: u32,
    key: Vec<String>,
    /// Numbers of the transactions that passed before it opened.
    before: Vec<u32>,
    touched: HashMap<Vec<u8>, Touch>,
    bytes: usize,
    /// Everything that stood in the table is gone.
    truncated: bool,
    /// Too much happened to remember, or the table was altered: the range must be read again.
    lost_track: bool,
}

/// What the stream brought of a row since the window opened.
enum Touch {
    /// The whole row, or its end.
    Whole,
    /// Some columns; the others are as they were read.
    Partly(Arc<Relation>, Tuple),
}

impl Windows {
    pub fn new(run: u64, keys: HashMap<u32, Vec<String>>) -> Self {
        Self {
            run,
            keys,
            open: VecDeque::new(),
            handed: HashMap::new(),
            recent: VecDeque::with_capacity(RECENT),
            merged: HashMap::new(),
        }
    }

    /// A transaction has passed.
    pub fn passed(&mut self, xid: u32) {
        if xid == 0 {
            return; // a message outside any transaction
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(xid);
    }

    /// A watermark comes by: one range ends here, the next one begins.
    pub fn pass(&mut self, mark: Watermark, batch: &mut Batch, ranges: &mut mpsc::Receiver<Range>) {
        if mark.run != self.run {
            return;
        }
        if let Some(high) = mark.high {
            let place = self.open.iter().position(|window| window.range == high);
            let window = place.and_then(|place| self.open.remove(place));
            // Handed over before its mark was written, so it is here, among those of other readers. What its reader
            // has given up is let go.
            while let Ok(range) = ranges.try_recv() {
                self.handed.insert(range.id, range);
            }
            self.handed.retain(|_, range| !range.reply.is_closed());
            if let Some(range) = self.handed.remove(&high) {
                let table = range.relation.oid;
                let follows = range.builds_on.is_none() || range.builds_on == self.merged.get(&table).copied();
                let moves = range.mark.is_some();
                if merge(window.filter(|_| follows), range, batch) && moves {
                    self.merged.insert(table, high);
                }
            }
        }
        if let Some((range, table)) = mark.low {
            let before = self.recent.iter().copied().collect();
            let key = self.keys.get(&table).cloned().unwrap_or_default();
            let touched = HashMap::new();
            if self.open.len() == OPEN {
                self.open.pop_front();
            }
            self.open.push_back(Window {
                range,
                table,
                key,
                before,
                touched,
                bytes: 0,
                truncated: false,
                lost_track: false,
            });
        }
    }

    /// A change goes by.
    pub fn note(&mut self, change: &Change) {
        self.open.iter_mut().filter(|window| !window.lost_track).for_each(|window| window.note(change));
    }
}

impl Window {
    fn note(&mut self, change: &Change) {
        match change {
            Change::Insert { relation, new } if relation.oid == self.table => {
                let key = self.key_of(relation, new);
                self.touch(relation, key, new);
            }
            Change::Update { relation, old, new } if relation.oid == self.table => {
                // A key so long that it is stored apart comes as unchanged; the old row holds it then.
                let key = self.key_of(relation, &old.as_ref().map_or_else(|| new.clone(), |old| old.overlaid(new)));
                if let Some(old) = old.as_ref().filter(|old| self.key_of(relation, old) != key) {
                    self.whole(relation, old);
                }
                self.touch(relation, key, new);
            }
            Change::Delete { relation, old } if relation.oid == self.table => self.whole(relation, old),
            Change::Truncate { relations, .. } if relations.iter().any(|r| r.oid == self.table) => {
                self.truncated = true;
            }
            _ => {}
        }
    }

    fn touch(&mut self, relation: &Arc<Relation>, key: Vec<u8>, row: &Tuple) {
        if !row.is_partial() {
            return self.remember(key, Touch::Whole);
        }
        let row = match self.touched.get(&key) {
            Some(Touch::Whole) => return,
            Some(Touch::Partly(before, earlier)) if before == relation => earlier.overlaid(row),
            Some(Touch::Partly(..)) => return self.lose_track(),
            None => row.clone(),
        };
        self.remember(key, Touch::Partly(relation.clone(), row));
    }

    fn remember(&mut self, key: Vec<u8>, touch: Touch) {
        let row = match &touch {
            Touch::Partly(_, row) => row.size(),
            Touch::Whole => 0,
        };
        self.bytes += key.len() + row + size_of::<Touch>();
        if self.bytes > TOUCHED_BYTES {
            return self.lose_track();
        }
        self.touched.insert(key, touch);
    }

    fn lose_track(&mut self) {
        self.touched = HashMap::new();
        self.lost_track = true;
    }

    fn key_of(&self, relation: &Relation, row: &Tuple) -> Vec<u8> {
        let place = |name| relation.columns.iter().position(|column| &column.name == name);
        let columns: Vec<usize> = self.key.iter().map(|name| place(name).unwrap_or(usize::MAX)).collect();
        let mut key = Vec::with_capacity(32);
        row.key(&columns, &mut key);
        key
    }

    fn whole(&mut self, relation: &Relation, row: &Tuple) {
        let key = self.key_of(relation, row);
        self.remember(key, Touch::Whole);
    }
}

/// Puts the rows that are still true into the batch, and the copy's progress with them; or asks to read them again.
fn merge(window: Option<Window>, range: Range, batch: &mut Batch) -> bool {
    let again = match &window {
        None => true,
        Some(window) => window.lost_track || window.before.iter().any(|&xid| !range.snapshot.sees(xid)),
    };
    let Some(mut window) = window.filter(|_| !again) else {
        let _ = range.reply.send(Merged::ReadAgain);
        return false;
    };
    let relation = &range.relation;
    let (mut left_out, asked) = (Vec::new(), range.mark.is_none());
    let mut push = |change: Change| {
        batch.bytes += change.size();
        batch.changes.push(change);
    };
    let gone = range.gone.len();
    for (at, key) in range.gone.into_iter().enumerate() {
        // A row that came meanwhile came by the stream, and a table that was emptied has none.
        if window.truncated || window.touched.contains_key(&window.key_of(relation, &key)) {
            left_out.push(at);
        } else {
            push(Change::Delete { relation: relation.clone(), old: key });
        }
    }
    for (at, row) in range.rows.into_iter().enumerate() {
        let touch = window.touched.remove(&window.key_of(relation, &row));
        let row = match touch {
            None if !window.truncated => row,
            Some(Touch::Partly(by, patch)) if !window.truncated => patched(relation, &row, &by, &patch),
            _ => {
                if asked {
                    left_out.push(gone + at);
                }
                continue;
            }
        };
        push(Change::Insert { relation: relation.clone(), new: row });
    }
    if let Some(mark) = range.mark {
        // Of two ranges of one table in a batch, the later one's progress says it all.
        batch.copied.retain(|before| before.table != mark.table);
        batch.copied.push(mark);
    }
    let _ = range.reply.send(Merged::Yes { left_out }); // a reader that is gone starts again from the stored mark
    true
}

/// The row as it was read, with the columns that the stream has brought since.
fn patched(relation: &Relation, row: &Tuple, patched_by: &Relation, patch: &Tuple) -> Tuple {
    let came: HashMap<&str, Cell<'_>> =
        patched_by.columns.iter().map(|column| column.name.as_str()).zip(patch.cells()).collect();
    let mut merged = TupleBuilder::new();
    for (column, cell) in relation.columns.iter().zip(row.cells()) {
        match came.get(column.name.as_str()) {
            Some(Cell::Unchanged) | None => merged.push(cell),
            Some(&newer) => merged.push(newer),
        }
    }
    merged.finish()
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
