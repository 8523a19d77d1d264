//! Rows that the target set aside: kept in mind, looked at again, and written once the target takes them.
//!
//! The rows lie in the target (`sql/supabase/parked.sql`), which also says when each is due. Nothing stale is ever
//! written: a row that is due is read again from the source, and goes out under the current checkpoint. That is sound
//! for the reason that `reread` gives; and a request that comes late finds the checkpoint moved, and does nothing.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;
use tracing::{info, warn};

use super::answer::Answer;
use super::plan::{Order, plan};
use super::send::{Mode, Request};
use super::{Apply, Event, reread, send};
use crate::rest::Body;
use crate::types::{Batch, Cell, Change, Fault, ParkedRows, TableName, TupleBuilder};

/// While rows are parked, how often the target is asked which are due: so soon a retry by hand is seen.
const LOOK: Duration = Duration::from_secs(5);

/// Rows that are asked for at once, and bytes beyond which no further one is read for the same request.
const ROWS: u64 = 100;
const BYTES: usize = 1 << 20;

/// What apply knows of the parked rows.
#[derive(Debug, Default)]
pub struct Parked {
    tables: Vec<ParkedRows>,
    /// When to look again.
    next: Option<Instant>,
}

impl Parked {
    /// With what the target said at the start.
    pub fn new(tables: Vec<ParkedRows>) -> Self {
        let next = (!tables.is_empty()).then(Instant::now);
        Self { tables, next }
    }

    /// An answer that was lost may have told of rows that are parked now.
    pub(super) fn look_soon(&mut self) {
        self.next = Some(Instant::now());
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }
}

#[derive(Debug, Deserialize)]
struct Look {
    due: Vec<Due>,
    parked: Vec<ParkedRows>,
    discarded: u64,
}

#[derive(Debug, Deserialize)]
struct Due {
    schema: String,
    table: String,
    key: Vec<String>,
    /// Not told by our SQL of an earlier version.
    #[serde(default)]
    key_names: Option<Vec<String>>,
    xid: Option<u32>,
}

impl Apply {
    /// Between two batches, since a busy stream never waits for one.
    pub(super) async fn look_when_due(&mut self) -> Result<(), Fault> {
        match self.parked.next {
            // While a transaction is half sent, its rows are left alone.
            Some(next) if next <= Instant::now() && self.staged.is_none() => self.look().await,
            _ => Ok(()),
        }
    }

    /// Notes what is parked now, and says so when that is news.
    pub(super) fn note_parked(&mut self, tables: Option<Vec<ParkedRows>>) {
        let Some(tables) = tables.filter(|tables| *tables != self.parked.tables) else { return };
        for now in &tables {
            let before = self.parked.tables.iter().find(|before| before.name() == now.name());
            if now.rows > before.map_or(0, |before| before.rows) {
                warn!(table = %now.name(), rows = now.rows, "rows are parked; `lockstep parked` shows why");
            }
        }
        for before in &self.parked.tables {
            if !tables.iter().any(|now| now.name() == before.name()) {
                info!(table = %before.name(), "no row is parked any more");
            }
        }
        self.parked.next = (!tables.is_empty()).then(|| self.parked.next.unwrap_or(Instant::now() + LOOK));
        self.tell(Event::Parked { tables: tables.clone(), discarded: None });
        self.parked.tables = tables;
    }

    /// Asks which rows are due, and tries them.
    async fn look(&mut self) -> Result<(), Fault> {
        self.parked.next = Some(Instant::now() + LOOK);
        let request = json!({"request": {"route": self.settings.route, "action": "due", "limit": ROWS}});
        // Trouble is the stream's to notice; a look that failed is made again.
        let Ok(look) = self.client.rpc::<Look>("lockstep_parked", Body::Json(request)).await else { return Ok(()) };
        self.tell(Event::Parked { tables: look.parked.clone(), discarded: Some(look.discarded) });
        if look.parked.is_empty() {
            self.parked.next = None;
        }
        self.note_parked(Some(look.parked));
        self.again(look.due).await
    }

    async fn again(&mut self, due: Vec<Due>) -> Result<(), Fault> {
        let mut batch = Batch { upto: self.reached.base, ..Batch::default() };
        for due in due {
            if batch.bytes > BYTES {
                self.parked.next = Some(Instant::now());
                break;
            }
            let table = TableName::new(due.schema, due.table);
            let Some((relation, names)) = self.shapes.described(&table) else { continue };
            if due.key_names.is_some_and(|was| was != names) || names.len() != due.key.len() {
                let cause = format!("its key became ({}) while rows of it were parked", names.join(", "));
                return Err(Fault::Park { table, cause });
            }
            let pairs: Vec<_> = names.iter().cloned().zip(due.key.iter().cloned()).collect();
            let key = due.key;
            let change = match reread::one(&mut self.reader, &table, &relation, names, key, due.xid).await? {
                Some(new) => Change::Insert { relation, new },
                None => {
                    let mut old = TupleBuilder::new();
                    for column in &relation.columns {
                        let text = pairs.iter().find(|(name, _)| *name == column.name).map(|(_, text)| text.as_bytes());
                        old.push(text.map_or(Cell::Null, Cell::Text));
                    }
                    Change::Delete { relation, old: old.finish() }
                }
            };
            batch.bytes += change.size();
            batch.changes.push(change);
        }
        if batch.changes.is_empty() {
            return Ok(());
        }
        let plan = plan(&batch, &mut self.shapes, Order::Rows, &|_| false)?;
        // With `strict` too, what was parked before stays parked: it is no news.
        let rows = self.settings.park_rows.unwrap_or(u64::MAX >> 1);
        let request = Request::new(&self.settings, self.reached.base, true, &batch, &plan, Mode::Repair { rows });
        match send::until_answered(self.client.clone(), self.settings.clone(), request, self.events.clone()).await? {
            Answer::Applied { parked, .. } => {
                self.note_parked(parked);
                Ok(())
            }
            Answer::Refused(refusal) | Answer::Missing(refusal) => {
                Err(refusal.fault(&plan.groups, self.settings.park_rows.is_some()))
            }
            Answer::Overflow(refusal) => Err(refusal.overflow()),
            Answer::Unstaged | Answer::Late => Err(Fault::retry("a request in pieces was not taken; it is sent again")),
            Answer::Duplicate => Ok(()),
            Answer::Gap { at } => {
                let base = self.reached.base;
                Err(Fault::retry(format!(
                    "the target's checkpoint is at {at}, not at {base}; starting again from there"
                )))
            }
        }
    }
}
