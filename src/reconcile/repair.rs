//! Writes what differs, through the stream: the rows are read again between two watermarks and merged into the stream at
//! the second one. What changed since it was looked at is left to the stream, and looked at again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::info;

use super::Inlet;
use super::check::Check;
use super::part::Key;
use super::prove::{Found, prove};
use super::read::relation;
use super::target::Trouble;
use crate::types::{Cell, DifferenceKind, Fault, Merged, Phase, Range, Relation, Tuple, TupleBuilder};

/// Rows of one range, at first and at most.
const ROWS: (usize, usize) = (200, 2_000);
/// A range may be this much larger than wanted before it is cut short.
const MOST_OVER: usize = 4;
/// How often what is still different after a repair is repaired again. What is left then does not get right by writing
/// it: the target's column cannot hold the value.
const PASSES: u32 = 3;
/// How often a range is read anew, because too much happened to its rows meanwhile.
const AGAIN: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Which rows a repair may write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Only {
    /// Those that are at the source as they were when they were found.
    AsFound,
    /// Any.
    All,
}

impl Check<'_> {
    /// Repairs what was found so far. Without a way into the stream it stays as it was found.
    pub(super) async fn repair(&mut self) -> Result<(), Trouble> {
        let Some(inlet) = self.inlet else { return Ok(()) };
        let mut found = std::mem::take(&mut self.found);
        if self.settings.keep_surplus {
            let before = found.len();
            found.retain(|found| found.kind != DifferenceKind::Surplus);
            self.left += (before - found.len()) as u64;
        }
        for _ in 0..PASSES {
            if found.is_empty() {
                return Ok(());
            }
            info!(table = %self.table.name, rows = found.len(), "repairing");
            self.tell(Phase::Repairing);
            let keys = found.iter().map(|found| found.key.clone()).collect();
            let (surplus, others) = found.into_iter().partition(|found| found.kind == DifferenceKind::Surplus);
            self.write(inlet, surplus, Only::AsFound).await?;
            self.write(inlet, others, Only::AsFound).await?;
            let proved = prove(&self.source, &mut self.target, keys).await?;
            self.unsettled(proved.unsettled).await?;
            found = proved.found;
        }
        self.left += found.len() as u64;
        Ok(())
    }

    /// Rows that change as often as they are looked at. Between two watermarks the stream itself says what they are; it
    /// may write one that is right already, so only a copy that is not finished does that.
    pub(super) async fn unsettled(&mut self, keys: Vec<Key>) -> Result<(), Trouble> {
        if self.heals {
            return self.write_all(keys).await;
        }
        self.report.unsettled += keys.len() as u64;
        Ok(())
    }

    /// Makes these rows in the target what they are at the source, whatever they are now.
    pub(super) async fn write_all(&mut self, keys: Vec<Key>) -> Result<(), Trouble> {
        let Some(inlet) = self.inlet else { return Ok(()) };
        let found = |key| Found { key, kind: DifferenceKind::Missing, version: None };
        self.write(inlet, keys.into_iter().map(found).collect(), Only::All).await
    }

    async fn write(&mut self, inlet: &Inlet, found: Vec<Found>, only: Only) -> Result<(), Trouble> {
        let relation = Arc::new(relation(self.table));
        let mut rest = VecDeque::from(found);
        let (mut size, mut again, mut last) = (ROWS.0, 0, None);
        while !rest.is_empty() {
            let these: Vec<Found> = rest.drain(..size.min(rest.len())).collect();
            let low = inlet.low(self.source.client, self.table.oid).await?;
            let keys: Vec<Key> = these.iter().map(|found| found.key.clone()).collect();
            let mut fetched = self.source.fetch(&keys, self.settings.range_bytes.saturating_mul(MOST_OVER)).await?;
            let (mut gone, mut rows, mut kinds) = (Vec::new(), Vec::new(), (Vec::new(), Vec::new()));
            let mut unread = Vec::new();
            for (place, found) in these.iter().enumerate() {
                match fetched.rows.remove(&place) {
                    Some((version, row)) if only == Only::All || found.version.as_ref() == Some(&version) => {
                        rows.push(row);
                        kinds.1.push(found.kind);
                    }
                    None if fetched.cut => unread.push(found.clone()),
                    None if only == Only::All || found.kind == DifferenceKind::Surplus => {
                        gone.push(key_row(&relation, &self.table.key, &found.key));
                        kinds.0.push(DifferenceKind::Surplus);
                    }
                    _ => {} // it changed since: the stream brings it, and it is looked at again
                }
            }
            let bytes: usize = rows.iter().map(Tuple::size).sum();
            if let Some(average) = bytes.checked_div(rows.len()) {
                let fitting = self.settings.range_bytes / average.max(1);
                size = fitting.clamp(1, ROWS.1).min(size * 4);
            }
            let (reply, merged) = oneshot::channel();
            let relation = relation.clone();
            let snapshot = fetched.snapshot;
            let range = Range { id: low, builds_on: None, relation, gone, rows, snapshot, mark: None, reply };
            last = Some(inlet.high(self.source.client, range).await?);
            match merged.await {
                Ok(Merged::Yes { left_out }) => {
                    kinds.0.append(&mut kinds.1);
                    if only == Only::AsFound {
                        self.count(&kinds.0, &left_out);
                    }
                    again = 0;
                    unread.into_iter().rev().for_each(|found| rest.push_front(found));
                }
                Ok(Merged::ReadAgain) => {
                    again += 1;
                    if again > AGAIN {
                        let cause = format!("{}: its rows change too much to be repaired", self.table.name);
                        return Err(Fault::retry(cause).into());
                    }
                    these.into_iter().rev().for_each(|found| rest.push_front(found));
                    size = (size / 2).max(1);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(_) => return Err(Fault::retry("the route ended during a repair").into()),
            }
        }
        match last {
            Some(last) => self.target.reach(last).await,
            None => Ok(()),
        }
    }

    fn count(&mut self, kinds: &[DifferenceKind], left_out: &[usize]) {
        for (place, kind) in kinds.iter().enumerate() {
            if left_out.contains(&place) {
                continue; // the stream brought it in this very moment
            }
            *match kind {
                DifferenceKind::Missing => &mut self.report.inserted,
                DifferenceKind::Different => &mut self.report.updated,
                DifferenceKind::Surplus => &mut self.report.deleted,
            } += 1;
        }
    }
}

/// A row of which only the key is known, as the stream brings it with a delete.
fn key_row(relation: &Relation, names: &[String], key: &Key) -> Tuple {
    let mut row = TupleBuilder::new();
    for column in &relation.columns {
        let value = names.iter().position(|name| name == &column.name).and_then(|place| key.get(place));
        row.push(value.map_or(Cell::Null, |text| Cell::Text(text.as_bytes())));
    }
    row.finish()
}
