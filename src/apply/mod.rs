//! Writes batches to the target by `rpc`: one request a batch, one in flight, exactly once.
//!
//! Every batch names the checkpoint it builds on (`base`) and the one it makes (`upto`); the target moves its
//! checkpoint in the transaction that writes the rows. So a request whose outcome is unknown is simply sent again,
//! under the same base: if it was carried out, the answer is `duplicate`.

mod ahead;
mod answer;
mod encode;
mod fold;
mod limits;
mod park;
mod plan;
mod reread;
mod send;
mod shape;
mod stage;
pub mod tables;

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::rest;
use crate::types::{Batch, Fault, ParkedRows, Position, Pull, TableName};
use answer::{Answer, Lost};
pub use limits::Limits;
pub use park::Parked;
use plan::{Order, Plan, plan};
use reread::Most;
pub use reread::Rereader;
use send::Mode;
pub use send::fault as request_fault;
pub use shape::{Shape, Shapes};
pub use stage::Staged;

/// The target commits without waiting for its disk: a row is seen that much sooner. It writes down what it took at
/// least this often while batches follow each other, ..
const FLUSH: Duration = Duration::from_secs(1);
/// .. and this long after the last one. Only then is it confirmed.
const FLUSH_IDLE: Duration = Duration::from_millis(200);
/// Somebody waits for the checkpoint to move. A batch with rows may come meanwhile and do it in passing.
const FLUSH_MARK: Duration = Duration::from_millis(10);

#[derive(Clone)]
pub struct Settings {
    pub route: String,
    /// The target leaves triggers and foreign keys to the source, and may do so: batches are folded and written set
    /// by set. Otherwise they are written in the source's order.
    pub suppress: bool,
    /// Rows that are refused are set aside, up to so many of a table; none: they stop the route.
    pub park_rows: Option<u64>,
    /// A transaction of up to so many bytes is applied as one, whatever it takes.
    pub whole_bytes: usize,
    pub limits: Limits,
}

/// What was written, for status and metrics.
#[derive(Clone, Debug)]
pub enum Event {
    /// Rows of a table, as the source changed them: `insert`, `update`, `delete`, `truncate`.
    Written { table: TableName, kind: &'static str, rows: u64 },
    /// A batch leaves whose oldest commit is this old (microseconds since the Unix epoch).
    Begun { committed_at: i64 },
    /// Supabase holds everything that was committed up to this time (microseconds since the Unix epoch).
    Settled { committed_at: i64 },
    /// A first copy got this far.
    Copied(crate::types::CopyMark),
    /// What is parked now, and how many parked rows were discarded by hand ever since.
    Parked { tables: Vec<ParkedRows>, discarded: Option<u64> },
    /// An attempt failed and will be made again, or one succeeded after such failures (`None`).
    Trouble(Option<String>),
}

pub struct Apply {
    pub settings: Settings,
    pub client: rest::Client,
    pub shapes: Shapes,
    /// Tables whose first copy is not finished.
    pub copying: HashSet<TableName>,
    /// How far the target is.
    pub reached: Reached,
    pub events: mpsc::UnboundedSender<Event>,
    /// Asks for rows of the source that a change holds only in part.
    pub reader: Rereader,
    pub parked: Parked,
    pub staged: Option<Staged>,
    /// How often in a row nothing was missing after all.
    pub vain: u32,
}

/// More often than this nothing passes by itself.
const VAIN: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// How far the target is, and who wants to know.
pub struct Reached {
    /// The target's checkpoint.
    base: Position,
    /// Everything up to here is in the target: behind the checkpoint there was nothing to write.
    ahead: Position,
    /// When the target must be asked to write what it took down to its disk, and to move the checkpoint.
    flush_by: Option<Instant>,
    /// When it did so last.
    flushed: Instant,
    /// Tells `ahead`.
    settled: watch::Sender<Position>,
    /// Tells which checkpoint outlives a crash of the target: what the source may forget.
    durable: watch::Sender<Position>,
}

/// A batch with its plan, ready to be sent.
struct Prepared {
    batch: Batch,
    plan: Plan,
    by_row: bool,
    /// What had been read again when it was planned.
    reads: u64,
}

impl Apply {
    /// Applies what it can pull until the pipeline ends.
    pub async fn run(mut self, pulls: mpsc::Sender<Pull>) -> Result<(), Fault> {
        let mut next: Option<Prepared> = None;
        loop {
            self.look_when_due().await?;
            let current = match next.take() {
                Some(prepared) if prepared.reads == self.reader.ahead().reads() => prepared,
                Some(stale) => self.prepare(stale.batch).await?,
                None => match self.next(&pulls).await? {
                    Some(batch) => self.prepare(batch).await?,
                    None => return self.flush().await,
                },
            };
            let current = if self.waits_for_more(&current.batch) {
                match self.stage(current).await? {
                    Some(current) => current,
                    None => continue,
                }
            } else {
                current
            };
            if self.staged.is_none() && current.plan.groups.is_empty() && current.batch.copied.is_empty() {
                self.pass_over(&current.batch);
                continue;
            }
            if let Some(committed_at) = current.batch.committed_at {
                self.tell(Event::Begun { committed_at });
            }
            let durable = self.reached.flushed.elapsed() > FLUSH;
            let (base, whole) = (self.reached.base, Mode::Whole);
            let mut request = send::Request::new(&self.settings, base, durable, &current.batch, &current.plan, whole);
            if let Some(staged) = self.staged_header() {
                request = send::Request::behind(&self.settings, base, durable, &current.batch, &current.plan, &staged);
            }
            let (client, settings) = (self.client.clone(), self.settings.clone());
            let mut sending = pin!(send::until_answered(client, settings, request, self.events.clone()));
            // While it is in flight, a batch that is full already is planned ahead. One that is not full keeps
            // growing until this one is answered.
            let (reply, mut ahead) = oneshot::channel();
            let asked = pulls.try_send(Pull { full: true, reply }).is_ok();
            let (answer, batch) = tokio::select! {
                answer = &mut sending => {
                    // A batch that was handed over in this very moment is in the channel and must not be lost with it.
                    ahead.close();
                    (Some(answer), ahead.try_recv().ok())
                }
                batch = &mut ahead, if asked => (None, batch.ok()),
            };
            next = match batch {
                Some(batch) => Some(self.prepare(batch).await?),
                None => None,
            };
            let answer = match answer {
                Some(answer) => answer,
                None => sending.await,
            };
            let answer = self.staged_answered(answer?)?;
            self.take(current, answer, durable).await?;
        }
    }

    /// The next batch; while none comes, what is due is done.
    async fn next(&mut self, pulls: &mpsc::Sender<Pull>) -> Result<Option<Batch>, Fault> {
        let mut batch = pin!(pull(pulls));
        loop {
            // While a transaction is half laid down, its rows are left alone.
            let look = self.parked.next().filter(|_| self.staged.is_none());
            let due = [self.reached.flush_by, look].into_iter().flatten().min();
            let Some(due) = due else { return Ok(batch.await) };
            tokio::select! {
                biased;
                batch = &mut batch => return Ok(batch),
                () = tokio::time::sleep_until(due) => {}
            }
            if self.reached.flush_by.is_some_and(|due| due <= Instant::now()) {
                self.flush().await?;
            }
            self.look_when_due().await?;
        }
    }

    /// Nothing in it for the target. The checkpoint follows with the next batch, or soon.
    fn pass_over(&mut self, batch: &Batch) {
        let wait = if batch.marked { FLUSH_MARK } else { FLUSH };
        let due = Instant::now() + wait;
        self.reached.ahead = batch.upto;
        self.reached.flush_by = Some(self.reached.flush_by.map_or(due, |before| before.min(due)));
        self.settle(batch);
    }

    /// Has the target move its checkpoint over what held nothing for it, and write all down to its disk.
    async fn flush(&mut self) -> Result<(), Fault> {
        if self.reached.flush_by.take().is_none() {
            return Ok(());
        }
        let batch = Batch { upto: self.reached.ahead, ..Batch::default() };
        let request =
            send::Request::new(&self.settings, self.reached.base, true, &batch, &Plan::default(), Mode::Whole);
        let answer =
            send::until_answered(self.client.clone(), self.settings.clone(), request, self.events.clone()).await?;
        self.take(Prepared { batch, plan: Plan::default(), by_row: true, reads: 0 }, answer, true).await
    }

    fn order(&self) -> Order {
        if self.settings.suppress { Order::Free } else { Order::Source }
    }

    async fn prepare(&mut self, mut batch: Batch) -> Result<Prepared, Fault> {
        self.complete(&mut batch).await?;
        let order = self.order();
        let copying = |table: &TableName| self.copying.contains(table);
        let plan = plan(&batch, &mut self.shapes, order, &copying)?;
        Ok(Prepared { plan, batch, by_row: false, reads: self.reader.ahead().reads() })
    }

    async fn complete(&mut self, batch: &mut Batch) -> Result<(), Fault> {
        let most = Most { bytes: self.settings.whole_bytes, park: self.settings.park_rows.is_some() };
        reread::complete(batch, self.reached.base, &self.copying, &mut self.shapes, &mut self.reader, most).await
    }

    /// Acts on the answer to a batch.
    async fn take(&mut self, prepared: Prepared, answer: Answer, durable: bool) -> Result<(), Fault> {
        match answer {
            Answer::Applied { absent, parked } => {
                self.note_parked(parked);
                if absent > 0 {
                    info!(rows = absent, "deleted rows that the target did not have");
                }
                self.written(&prepared, durable);
                Ok(())
            }
            // A flush has nothing to repeat.
            Answer::Duplicate if prepared.batch.upto == self.reached.base => {
                self.written(&prepared, durable);
                Ok(())
            }
            Answer::Duplicate => {
                info!(upto = %prepared.batch.upto, "the target had this batch already: an earlier answer was lost");
                crate::metrics::get().duplicates.inc();
                self.parked.look_soon();
                self.written(&prepared, durable);
                Ok(())
            }
            Answer::Gap { at } => {
                crate::metrics::get().gaps.inc();
                let (base, upto) = (self.reached.base, prepared.batch.upto);
                Err(Fault::retry(format!(
                    "the target's checkpoint is at {at}, not at {base} on which the batch up to {upto} builds; \
                     starting again from there"
                )))
            }
            // A single row's refusal is final; a set's may be one of order.
            Answer::Refused(refusal) if refusal.is_row() && !prepared.by_row => {
                warn!(cause = %refusal, "a set was refused; replaying the batch row by row in the source's order");
                crate::metrics::get().replays.inc();
                self.once_more(prepared.batch, true).await
            }
            Answer::Refused(refusal) => Err(refusal.fault(&prepared.plan.groups, self.settings.park_rows.is_some())),
            Answer::Missing(refusal) => {
                let Prepared { mut batch, by_row, .. } = prepared;
                self.not_in_vain(&refusal.lost).await?;
                reread::complete_lost(&mut batch, &refusal.lost, &mut self.shapes, &mut self.reader, &self.settings)
                    .await?;
                self.complete(&mut batch).await?;
                self.once_more(batch, by_row).await
            }
            Answer::Overflow(refusal) => Err(refusal.overflow()),
            Answer::Unstaged | Answer::Late => Err(Fault::retry("a request in pieces was not taken; it is sent again")),
        }
    }

    /// Rows that were said to be missing and are there: they came in this very moment, or something keeps them as they are.
    async fn not_in_vain(&mut self, lost: &[Lost]) -> Result<(), Fault> {
        if lost.iter().any(|lost| !lost.keys.is_empty()) {
            self.vain = 0;
            return Ok(());
        }
        self.vain += 1;
        let Some(table) = lost.first().map(Lost::table).filter(|_| self.vain > VAIN) else {
            tokio::time::sleep(PAUSE).await;
            return Ok(());
        };
        let cause =
            "Supabase leaves rows as they are that it should write: a trigger or rule of the table keeps them out";
        let fix = "disable it there, or let it be left to the source (apply.triggers = \"suppress\")";
        match self.settings.park_rows {
            Some(_) => Err(Fault::Park { table, cause: format!("{cause}; {fix}") }),
            None => Err(Fault::stop(format!("{table}: {cause}"), fix)),
        }
    }

    /// The same batch under the same base; row by row, what the source accepted in this order, the target does too.
    async fn once_more(&mut self, batch: Batch, by_row: bool) -> Result<(), Fault> {
        let order = if by_row { Order::Rows } else { self.order() };
        let copying = |table: &TableName| self.copying.contains(table);
        let plan = plan(&batch, &mut self.shapes, order, &copying)?;
        let prepared = Prepared { plan, batch, by_row, reads: 0 };
        let mode = self.settings.park_rows.filter(|_| by_row).map_or(Mode::Whole, |rows| Mode::Park { rows });
        let base = self.reached.base;
        let request = send::Request::new(&self.settings, base, true, &prepared.batch, &prepared.plan, mode);
        let answer =
            send::until_answered(self.client.clone(), self.settings.clone(), request, self.events.clone()).await?;
        Box::pin(self.take(prepared, answer, true)).await
    }

    fn written(&mut self, prepared: &Prepared, durable: bool) {
        self.count(prepared);
        self.reached.written(prepared.batch.upto, durable);
        self.settle(&prepared.batch);
    }

    fn count(&mut self, Prepared { batch, plan, .. }: &Prepared) {
        for (table, kind, rows) in &plan.counted {
            self.tell(Event::Written { table: table.clone(), kind, rows: *rows });
        }
        for mark in &batch.copied {
            if mark.done {
                self.copying.remove(&mark.table);
            }
            self.tell(Event::Copied(mark.clone()));
        }
        let metrics = crate::metrics::get();
        metrics.batches.inc();
        metrics.transactions.inc_by(batch.transactions);
    }

    fn settle(&self, batch: &Batch) {
        if let Some(committed_at) = batch.committed_at {
            self.tell(Event::Settled { committed_at });
        }
        self.reached.settled.send_replace(batch.upto);
    }

    fn tell(&self, event: Event) {
        let _ = self.events.send(event); // nobody listens any more when the route ends
    }
}

impl Reached {
    /// From the target's checkpoint as a start finds it: committed long ago, or flushed by the first batch.
    pub fn new(base: Position, settled: watch::Sender<Position>, durable: watch::Sender<Position>) -> Self {
        Self { base, ahead: base, flush_by: None, flushed: Instant::now(), settled, durable }
    }

    fn written(&mut self, upto: Position, durable: bool) {
        let now = Instant::now();
        (self.base, self.ahead) = (upto, upto);
        if durable {
            (self.flushed, self.flush_by) = (now, None);
            self.durable.send_replace(upto);
        } else {
            self.flush_by = Some(now + FLUSH_IDLE);
        }
    }
}

/// The next batch; `None` when the pipeline has ended.
async fn pull(pulls: &mpsc::Sender<Pull>) -> Option<Batch> {
    let (reply, batch) = oneshot::channel();
    pulls.send(Pull { full: false, reply }).await.ok()?;
    batch.await.ok()
}

/// Seconds since then, for the histogram.
fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}
