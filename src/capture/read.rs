//! The one task that owns the connection: it reads, hands on, and reports, and none of these waits for another.

use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::assemble::{Assembler, Step};
use super::feedback::Feedback;
use super::{Progress, Settings, slot};
use crate::pg::replication::{Failure, Frame, Stream};
use crate::types::{Closed, Fault, Lsn, Position, Sender, Transaction};

/// A moved checkpoint is confirmed at most this often: the source gains nothing from hearing it more often (it only
/// recycles whole WAL segments), and every status wakes its walsender.
const PROMPT: Duration = Duration::from_millis(100);

/// With no word for so long although every status asks for one, the connection leads nowhere. Long, because a
/// walsender that decodes a huge transaction is silent too, and a new one would have to start over; a peer that is
/// plainly dead is noticed by TCP within a minute.
const SILENCE: Duration = Duration::from_secs(300);

/// A server that asks for a status is answered at most this often: one that shuts down asks again at once.
const ANSWER: Duration = Duration::from_millis(10);

/// Asked so often in a row while nothing more can be confirmed, the server is shutting down and waits for us. The
/// stream is left then: the target may be away for hours, and whoever stops a database wants it to stop.
const ASKED: u32 = 200;

pub(super) struct Reader<'a> {
    settings: &'a Settings,
    stream: Stream,
    assembler: Assembler,
    feedback: Feedback,
    watches: Watches,
    seen: Progress,
    interval: Duration,
    /// When and what the last status told.
    reported: Option<(Instant, Lsn)>,
    /// The server waits for a status.
    reply: bool,
    /// How often in a row it asked since the checkpoint moved.
    asked: u32,
    /// It may wait for the checkpoint to move over WAL that holds nothing for us.
    wanted: bool,
    /// When a mark is due at the latest.
    mark_by: Instant,
    /// When the server was heard last, or was last not listened to.
    heard: Instant,
}

/// The reader's windows on the other parts.
pub(super) struct Watches {
    pub(super) checkpoint: watch::Receiver<Position>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) progress: watch::Sender<Progress>,
}

/// Why waiting ended.
enum Woken<T> {
    Done(T),
    Stop,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        stream: Stream,
        resume: Position,
        confirmed: Lsn,
        interval: Duration,
        watches: Watches,
    ) -> Self {
        Self {
            settings,
            stream,
            assembler: Assembler::new(resume, settings.part_bytes),
            feedback: Feedback::new(resume, confirmed),
            watches,
            seen: Progress { confirmed, ..Progress::default() },
            interval,
            reported: None,
            reply: false,
            asked: 0,
            wanted: false,
            mark_by: Instant::now() + settings.mark_interval,
            heard: Instant::now(),
        }
    }

    pub(super) async fn run(mut self, out: Sender<Transaction>) -> Result<(), Fault> {
        while !*self.watches.stop.borrow_and_update() {
            match self.next_ready()?.or_else(|| self.mark()) {
                Some(transaction) => match self.hand_on(&out, transaction).await? {
                    Woken::Done(Ok(())) => {}
                    // Nobody takes changes any more: the rest of the way is the same as after a stop.
                    Woken::Done(Err(Closed)) | Woken::Stop => break,
                },
                None => {
                    self.publish();
                    if matches!(self.read().await?, Woken::Stop) {
                        break;
                    }
                }
            }
        }
        drop(out);
        self.drain().await
    }

    /// Takes frames out of the buffer up to the next transaction.
    fn next_ready(&mut self) -> Result<Option<Transaction>, Fault> {
        while let Some(frame) = self.stream.buffered().map_err(|failure| self.fault(&failure))? {
            match frame {
                Frame::Data { end, clock, data, .. } => {
                    self.seen.received = self.seen.received.max(end);
                    self.seen.sent_at = clock;
                    let step = self.assembler.take(data)?;
                    self.feedback.reading(self.assembler.half_read());
                    match step {
                        Step::Nothing => {}
                        Step::Empty(end) => self.feedback.sent(end),
                        Step::Ready(transaction) => {
                            self.feedback.handed(transaction.end);
                            return Ok(Some(transaction));
                        }
                    }
                }
                Frame::Keepalive { end, clock, reply } => {
                    self.seen.received = self.seen.received.max(end);
                    self.seen.sent_at = clock;
                    self.feedback.sent(end);
                    self.reply |= reply;
                    self.wanted |= reply;
                    self.asked += u32::from(reply);
                    if self.asked > ASKED {
                        return Err(Fault::retry("the source is shutting down"));
                    }
                }
                Frame::Done => return Err(Fault::retry("the source ended the replication stream")),
            }
        }
        Ok(None)
    }

    /// An empty transaction for WAL without anything for us: when it is time, and when the server asks, for that may be
    /// all it waits for to shut down.
    fn mark(&mut self) -> Option<Transaction> {
        let now = Instant::now();
        let asked = self.wanted && now + self.settings.mark_interval >= self.mark_by + PROMPT;
        if !asked && now < self.mark_by {
            return None;
        }
        self.wanted = false;
        self.mark_by = now + self.settings.mark_interval;
        let end = self.feedback.mark()?;
        self.feedback.handed(end);
        Some(Transaction { xid: 0, commit: end.lsn(), end, committed_at: 0, changes: Vec::new(), bytes: 0 })
    }

    async fn hand_on(
        &mut self,
        out: &Sender<Transaction>,
        transaction: Transaction,
    ) -> Result<Woken<Result<(), Closed>>, Fault> {
        let bytes = transaction.bytes;
        let mut sent = pin!(out.send(transaction, bytes));
        // Mostly there is room; then the clock and the watches need not be asked.
        if let Some(sent) = sent.as_mut().now_or_never() {
            return Ok(Woken::Done(sent));
        }
        loop {
            let due = self.report().await?;
            tokio::select! {
                sent = &mut sent => {
                    self.heard = Instant::now(); // nobody listened meanwhile: silence counts from here
                    return Ok(Woken::Done(sent));
                }
                stop = stopped(&mut self.watches.stop) => if stop { return Ok(Woken::Stop) },
                moved = self.watches.checkpoint.changed() => if moved.is_err() { return Ok(Woken::Stop) },
                () = tokio::time::sleep_until(due) => {}
            }
        }
    }

    async fn read(&mut self) -> Result<Woken<()>, Fault> {
        loop {
            let due = self.report().await?.min(self.mark_by);
            tokio::select! {
                filled = self.stream.fill() => {
                    filled.map_err(|failure| self.fault(&failure))?;
                    self.heard = Instant::now();
                    return Ok(Woken::Done(()));
                }
                stop = stopped(&mut self.watches.stop) => if stop { return Ok(Woken::Stop) },
                moved = self.watches.checkpoint.changed() => if moved.is_err() { return Ok(Woken::Stop) },
                () = tokio::time::sleep_until(due) => {
                    if Instant::now() >= self.mark_by {
                        return Ok(Woken::Done(()));
                    }
                    if self.heard.elapsed() > SILENCE {
                        let silent = self.heard.elapsed().as_secs();
                        return Err(Fault::retry(format!("the source has been silent for {silent} s")));
                    }
                }
            }
        }
    }

    /// Confirms what still becomes durable, until nobody moves the checkpoint any more. Nothing is read: what comes
    /// now was not handed on, and will come again.
    async fn drain(mut self) -> Result<(), Fault> {
        loop {
            let due = self.report().await?;
            tokio::select! {
                moved = self.watches.checkpoint.changed() => if moved.is_err() { break },
                () = tokio::time::sleep_until(due) => {}
            }
        }
        self.feedback.checkpoint(*self.watches.checkpoint.borrow());
        self.status().await?;
        let fault = |failure: Failure| failure.fault();
        tracing::info!(confirmed = %self.seen.confirmed, "capture ends its stream");
        self.stream.finish().await.map_err(fault)
    }

    /// Sends a status if one is due; says when the next one is.
    async fn report(&mut self) -> Result<Instant, Fault> {
        self.feedback.checkpoint(*self.watches.checkpoint.borrow_and_update());
        let confirm = self.feedback.confirm();
        let now = Instant::now();
        let due = match self.reported {
            None => now,
            Some((at, told)) if confirm == told && self.reply => at + ANSWER,
            Some(_) if self.reply => now,
            Some((at, told)) if confirm > told => at + PROMPT.min(self.interval),
            Some((at, _)) => at + self.interval,
        };
        if due > now {
            return Ok(due);
        }
        self.status().await?;
        Ok(now + self.interval)
    }

    async fn status(&mut self) -> Result<(), Fault> {
        let confirm = self.feedback.confirm();
        // Asked for an answer, the server shows that it is alive, and how far it has sent.
        self.stream.status(confirm, true).await.map_err(|failure| self.fault(&failure))?;
        if self.reported.is_none_or(|(_, told)| confirm > told) {
            self.asked = 0;
        }
        self.reported = Some((Instant::now(), confirm));
        self.reply = false;
        self.seen.confirmed = confirm;
        self.publish();
        Ok(())
    }

    fn publish(&mut self) {
        self.seen.handed = self.feedback.read();
        self.watches.progress.send_if_modified(|shown| std::mem::replace(shown, self.seen) != self.seen);
    }

    fn fault(&self, failure: &Failure) -> Fault {
        slot::start_fault(self.settings, failure)
    }
}

/// Whether to stop; a supervisor that is gone wants it too.
async fn stopped(stop: &mut watch::Receiver<bool>) -> bool {
    stop.changed().await.map_or(true, |()| *stop.borrow_and_update())
}
