//! Gathers transactions into batches, in commit order, and merges ranges of a first copy in at their watermarks.
//!
//! While nobody asks, transactions gather up to a size; when apply pulls, what is there leaves. Only under load does a
//! batch wait for company: see `PACE`.

mod window;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::types::{Batch, Change, Closed, Position, Pull, Range, Receiver, Transaction, Watermark};
use window::Windows;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Which start of the service this is; see `Watermark::run`.
    pub run: u64,
    /// Names of each replicated table's key columns, by oid.
    pub keys: HashMap<u32, Vec<String>>,
    /// Size at which a batch is full.
    pub batch_bytes: Arc<AtomicUsize>,
}

/// Under load, batches leave no faster than this. What a request costs beside its rows (in PostgREST, in a transaction,
/// in a commit) is then shared by many rows: with a quick target, batches would stay small and requests eat the time.
const PACE: Duration = Duration::from_millis(40);

/// So much came while the last batch was on its way, some hundreds of small rows: that is load. Less leaves at once, so
/// that a steady stream keeps its latency.
const LOAD_BYTES: usize = 64 * 1024;

/// A row that was committed so long ago waits for those before it: that is catching up, and less is enough for a pause,
/// some fifteen small rows. Should the clocks of source and host differ by more, batches only leave later under load.
const BEHIND: Duration = Duration::from_secs(1);
const BEHIND_BYTES: usize = 4 * 1024;

/// Where transactions come from, in order: the queue itself, or one that holds some of them back for a while.
pub trait Feed: Send + 'static {
    /// The next one, or `None` when there will be no more. Giving up the wait loses nothing.
    fn recv(&mut self) -> impl Future<Output = Option<Transaction>> + Send;
    /// The next one if it is there.
    fn try_recv(&mut self) -> Option<Transaction>;
    /// Bytes that wait.
    fn queued(&self) -> usize;
}

impl Feed for Receiver<Transaction> {
    fn recv(&mut self) -> impl Future<Output = Option<Transaction>> + Send {
        Self::recv(self)
    }

    fn try_recv(&mut self) -> Option<Transaction> {
        Self::try_recv(self)
    }

    fn queued(&self) -> usize {
        Self::queued(self)
    }
}

/// Hands out batches until the source's queue ends and all that it held is handed out, or apply is gone.
pub async fn run(
    settings: Settings,
    mut transactions: impl Feed,
    mut ranges: mpsc::Receiver<Range>,
    mut pulls: mpsc::Receiver<Pull>,
) -> Result<(), Closed> {
    let mut gathered = Batch::default();
    let mut windows = Windows::new(settings.run, settings.keys);
    let mut waiting: Option<Pull> = None;
    let metrics = crate::metrics::get();
    let mut ended = false;
    let mut left = Instant::now();
    loop {
        let limit = settings.batch_bytes.load(Relaxed);
        let full = gathered.bytes >= limit;
        let due = left + PACE;
        let paced = gathered.bytes >= enough(&gathered) && Instant::now() < due;
        if let Some(pull) = waiting.take() {
            let anything = gathered.upto > Position::default();
            if (anything && !pull.full && !paced) || full || (ended && anything) {
                // A reply that nobody waits for any more gives the batch back.
                match pull.reply.send(std::mem::take(&mut gathered)) {
                    Ok(()) => left = Instant::now(),
                    Err(batch) => gathered = batch,
                }
                continue;
            }
            waiting = Some(pull);
        }
        if ended && gathered.upto == Position::default() {
            return Ok(());
        }
        metrics.queued_bytes.set((transactions.queued() + gathered.bytes) as i64);
        tokio::select! {
            // What gathers is bounded here: at the limit, reading stops until apply pulls.
            transaction = transactions.recv(), if !full && !ended => match transaction {
                Some(transaction) => {
                    gather(&mut gathered, transaction, &mut windows, &mut ranges);
                    // Take what is waiting without going round for each; a pull can wait that long.
                    while gathered.bytes < limit && let Some(transaction) = transactions.try_recv() {
                        gather(&mut gathered, transaction, &mut windows, &mut ranges);
                    }
                }
                None => ended = true,
            },
            pull = pulls.recv() => match pull {
                Some(pull) => waiting = Some(pull),
                None => return Err(Closed),
            },
            () = tokio::time::sleep_until(due), if paced && waiting.is_some() => {}
        }
    }
}

/// With how much a batch is worth a pause.
fn enough(batch: &Batch) -> usize {
    let now = jiff::Timestamp::now().as_microsecond();
    let behind = batch.committed_at.is_some_and(|at| now.saturating_sub(at) > BEHIND.as_micros() as i64);
    if behind { BEHIND_BYTES } else { LOAD_BYTES }
}

fn gather(batch: &mut Batch, transaction: Transaction, windows: &mut Windows, ranges: &mut mpsc::Receiver<Range>) {
    assert!(batch.upto < transaction.end, "the stream went back from {} to {}", batch.upto, transaction.end);
    batch.upto = transaction.end;
    batch.begins.push((batch.changes.len(), transaction.xid));
    batch.marked |= transaction.changes.is_empty();
    let mut changed = false;
    for change in transaction.changes {
        if let Change::Message { content } = &change {
            batch.marked = true;
            if let Ok(watermark) = serde_json::from_slice::<Watermark>(content) {
                windows.pass(watermark, batch, ranges);
            }
            continue;
        }
        windows.note(&change);
        changed = true;
        batch.bytes += change.size();
        batch.changes.push(change);
    }
    windows.passed(transaction.xid);
    if changed {
        batch.transactions += u64::from(transaction.end.minor == 0);
        batch.committed_at.get_or_insert(transaction.committed_at);
    }
}
