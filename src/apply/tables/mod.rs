//! Writes batches to the target's tables through plain PostgREST, for targets in which nothing of ours is installed: at
//! least once, converging, and no transaction over more than one request.
//!
//! The checkpoint cannot lie in the target then. It is the slot's: what is confirmed to the source was answered by the
//! target. After a crash the slot sends again what the target may have already, and more; see [`write`] for how that
//! ends in the same rows.

mod attempt;
mod facts;
mod form;
mod latest;
mod probe;
mod send;
mod steps;
mod truncate;
mod words;
mod write;

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::reread::{self, Most};
use super::{Event, Rereader, Shapes, pull, seconds};
use crate::ledger::progress;
use crate::pg;
use crate::rest;
use crate::types::{Batch, CopyMark, Fault, Position, Pull, TableName};
pub use facts::{Facts, read as facts};
pub use form::{FILTER_BYTES, condition, quoted};
use latest::Latest;
pub use probe::{Probed, probe};
use send::Wire;
use steps::{Forms, steps};
pub use words::setup;

/// Longer than capture takes to say that nothing more came: what waits then waits in vain.
const IDLE: Duration = Duration::from_secs(15);
/// A batch with rows that were read again is in memory as a whole: no more than what may wait there.
const COMPLETED_BYTES: usize = 32 << 20;

pub struct Settings {
    pub route: String,
    /// Where the progress of first copies is kept.
    pub source: pg::Url,
    /// Largest body.
    pub request_bytes: usize,
    /// An earlier start may have written to the target, beyond the checkpoint.
    pub begun: bool,
}

pub struct Tables {
    settings: Settings,
    wire: Wire,
    shapes: Shapes,
    forms: Forms,
    facts: Facts,
    /// Tables whose first copy is not finished.
    copying: HashSet<TableName>,
    reader: Rereader,
    settled: watch::Sender<Position>,
    durable: watch::Sender<Position>,
    request_bytes: usize,
    /// The target may be ahead of what is written now.
    replaying: bool,
    /// A first copy has ended in this batch: rows that waited for it may be written.
    copy_ended: bool,
    /// What cannot be written yet.
    held: Latest,
    /// What was taken out of it for the batch at work.
    taken: Vec<latest::Item>,
    /// What was done while something waited, told once nothing does.
    untold: Untold,
    /// An earlier start may have written up to here; not known before the first batch.
    replay_until: Option<Position>,
    /// A connection to the source.
    progress: Option<pg::Client>,
}

#[derive(Default)]
struct Untold {
    copied: Vec<CopyMark>,
    committed_at: Option<i64>,
    upto: Position,
}

/// The parts that join it to the others.
pub struct Joints {
    pub client: rest::Client,
    pub shapes: Shapes,
    pub copying: HashSet<TableName>,
    pub settled: watch::Sender<Position>,
    pub durable: watch::Sender<Position>,
    pub events: mpsc::UnboundedSender<Event>,
    pub reader: Rereader,
}

impl Tables {
    pub fn new(settings: Settings, facts: Facts, joints: Joints) -> Self {
        let Joints { client, shapes, copying, settled, durable, events, reader } = joints;
        Self {
            wire: Wire { client, events },
            shapes,
            forms: Forms::new(facts.json.clone()),
            facts,
            copying,
            reader,
            settled,
            durable,
            request_bytes: settings.request_bytes,
            replaying: false,
            copy_ended: false,
            held: Latest::default(),
            taken: Vec::new(),
            untold: Untold::default(),
            replay_until: (!settings.begun).then(Position::default),
            progress: None,
            settings,
        }
    }

    /// Applies what it can pull until the pipeline ends.
    pub async fn run(mut self, pulls: mpsc::Sender<Pull>) -> Result<(), Fault> {
        while let Some(batch) = self.next(&pulls).await? {
            self.take(batch).await?;
        }
        Ok(())
    }

    /// The next batch. When none comes, nothing will take the place of what waits.
    async fn next(&mut self, pulls: &mpsc::Sender<Pull>) -> Result<Option<Batch>, Fault> {
        let mut batch = pin!(pull(pulls));
        loop {
            if self.held.is_empty() || !self.copying.is_empty() {
                return Ok(batch.await);
            }
            tokio::select! {
                biased;
                batch = &mut batch => return Ok(batch),
                () = tokio::time::sleep(IDLE) => {
                    self.replaying = false;
                    self.write(Vec::new()).await?;
                    self.settle().await?;
                }
            }
        }
    }

    async fn take(&mut self, mut batch: Batch) -> Result<(), Fault> {
        let base = self.untold.upto;
        let most = Most { bytes: COMPLETED_BYTES, park: true };
        reread::complete(&mut batch, base, &self.copying, &mut self.shapes, &mut self.reader, most).await?;
        let began = Instant::now();
        if let Some(committed_at) = batch.committed_at {
            self.tell(Event::Begun { committed_at });
        }
        let plan = steps(&batch, &mut self.shapes, &mut self.forms)?;
        let ended = batch.copied.iter().filter(|mark| mark.done);
        self.copy_ended = ended.map(|mark| self.copying.remove(&mark.table)).filter(|&was| was).count() > 0;
        self.replaying = batch.upto < self.replay_until().await?;
        self.write(plan.steps).await?;
        for (table, kind, rows) in plan.counted {
            self.tell(Event::Written { table, kind, rows });
        }
        let metrics = crate::metrics::get();
        if batch.transactions > 0 {
            metrics.apply_seconds.observe(seconds(began));
            metrics.batches.inc();
            metrics.transactions.inc_by(batch.transactions);
        }
        self.untold.upto = batch.upto;
        self.untold.committed_at = batch.committed_at.or(self.untold.committed_at);
        for mark in batch.copied {
            self.untold.copied.retain(|before| before.table != mark.table);
            self.untold.copied.push(mark);
        }
        self.settle().await
    }

    /// Tells how far the target is. While something waits, all behind it counts as not yet written.
    async fn settle(&mut self) -> Result<(), Fault> {
        if !self.held.is_empty() {
            return Ok(());
        }
        let Untold { copied, committed_at, upto } = std::mem::take(&mut self.untold);
        for mark in copied {
            self.save(&mark).await?;
            self.tell(Event::Copied(mark));
        }
        if let Some(committed_at) = committed_at {
            self.tell(Event::Settled { committed_at });
        }
        self.untold.upto = upto;
        self.settled.send_replace(upto);
        // PostgREST answers behind the commit, which waits for the disk.
        self.durable.send_replace(upto);
        Ok(())
    }

    async fn save(&mut self, mark: &CopyMark) -> Result<(), Fault> {
        let route = self.settings.route.clone();
        progress::save(self.progress().await?, &route, mark).await
    }

    async fn progress(&mut self) -> Result<&pg::Client, Fault> {
        Ok(match &mut self.progress {
            Some(client) => client,
            none => none.insert(pg::connect(&self.settings.source, "lockstep progress").await?),
        })
    }

    /// Where the source's WAL ended when the first batch came: the slot was ours by then, and whoever had it before had
    /// read no more than there was.
    async fn replay_until(&mut self) -> Result<Position, Fault> {
        if let Some(until) = self.replay_until {
            return Ok(until);
        }
        let until = progress::wal_end(self.progress().await?).await?;
        Ok(*self.replay_until.insert(until))
    }

    fn tell(&self, event: Event) {
        let _ = self.wire.events.send(event); // nobody listens any more when the route ends
    }
}
