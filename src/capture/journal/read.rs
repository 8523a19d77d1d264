//! The one task that reads the journal: up to a horizon, whole transactions in their order, a bounded piece at a time.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::assemble::{Open, Row, end_of, vanished};
use super::horizon::{self, lsn};
use super::shapes::Shapes;
use super::window::{self, Found};
use super::{Lost, Settings, Watches};
use crate::capture::Progress;
use crate::pg::Client;
use crate::types::{Closed, Fault, Lsn, Position, Sender, Transaction};

/// Rows of one piece: at first, before their size is known, and at most; and about how many bytes it is to have.
const FIRST_ROWS: i64 = 64;
const MOST_ROWS: i64 = 8192;
const PIECE: usize = 512 << 10;
/// What a row has beside its texts.
const ROW: usize = 64;
/// A horizon is looked for again after this long, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// What holds the reader up for so long is told, and again every so often.
const STALLED: Duration = Duration::from_secs(2);
const TELL: Duration = Duration::from_secs(60);

pub(super) struct Reader<'a> {
    settings: &'a Settings,
    client: &'a Client,
    bell: Arc<Notify>,
    watches: Watches,
    /// Every transaction that stands at or before is read.
    behind: Lsn,
    /// Of the transaction that stands first now, so many changes were applied before.
    half: Option<Position>,
    handed: Position,
    /// The newest horizon.
    upto: Lsn,
    /// Where the WAL ended when there was nothing more to read.
    quiet: Option<Lsn>,
    mark_by: Instant,
    shapes: Shapes,
    seen: Progress,
    limit: i64,
}

/// Why reading ended early.
enum Cut {
    Stop,
    Fault(Fault),
}

impl From<Fault> for Cut {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        client: &'a Client,
        bell: Arc<Notify>,
        resume: Position,
        watches: Watches,
    ) -> Self {
        let behind = Lsn(resume.major.saturating_sub(1));
        Self {
            settings,
            client,
            bell,
            watches,
            behind,
            half: (resume.minor > 0).then_some(resume),
            handed: resume,
            upto: behind,
            quiet: None,
            mark_by: Instant::now() + settings.mark_interval,
            shapes: Shapes::default(),
            seen: Progress::default(),
            limit: FIRST_ROWS,
        }
    }

    pub(super) async fn run(mut self, out: Sender<Transaction>) -> Result<(), Fault> {
        match self.read_on(&out).await {
            Err(Cut::Fault(fault)) => return Err(fault),
            Ok(()) | Err(Cut::Stop) => {}
        }
        drop(out);
        // What still becomes durable is the pruner's to forget.
        while self.watches.checkpoint.changed().await.is_ok() {}
        Ok(())
    }

    async fn read_on(&mut self, out: &Sender<Transaction>) -> Result<(), Cut> {
        let mut rung = true;
        loop {
            if !self.is_quiet().await? || rung {
                self.horizon().await?;
                self.windows(out).await?;
                self.quiet = Some(horizon::look(self.client, self.behind).await?.end);
            }
            self.mark(out).await?;
            self.publish(true);
            rung = self.wait().await?;
        }
    }

    /// Whether nothing has happened since all was read. Also says that the source is alive.
    async fn is_quiet(&mut self) -> Result<bool, Fault> {
        let look = horizon::look(self.client, self.behind).await?;
        self.seen.sent_at = look.clock;
        Ok(self.quiet == Some(look.end) && !look.more)
    }

    /// Finds an end of the WAL before which nothing can appear any more, and which is on the source's disk: what a crash
    /// could take back is not handed on.
    async fn horizon(&mut self) -> Result<(), Cut> {
        let fence = horizon::fence(self.client).await?;
        let mut now = fence.now;
        let begun = Instant::now();
        let (mut pause, mut told) = (AGAIN.0, None::<Instant>);
        while !now.passed {
            self.pause(pause).await?;
            pause = (pause * 2).min(AGAIN.1);
            now = horizon::passed(self.client, &fence.xid).await?;
            self.seen.sent_at = now.clock;
            if !now.passed && begun.elapsed() > STALLED {
                self.seen.received = self.seen.received.max(fence.upto);
                self.publish(false);
                if told.is_none_or(|at| at.elapsed() > TELL) {
                    let holder = horizon::holder(self.client).await?;
                    tracing::warn!(%holder, "an open transaction holds the journal up; end it, or let it end");
                    self.watches.held_up.send_replace(Some(holder));
                    told = Some(Instant::now());
                }
            }
        }
        if told.is_some() {
            self.watches.held_up.send_replace(None);
        }
        if !now.flushed {
            horizon::flush(self.client).await?;
        }
        self.seen.sent_at = now.clock;
        self.upto = fence.upto;
        Ok(())
    }

    /// Hands on what stands before the horizon.
    async fn windows(&mut self, out: &Sender<Transaction>) -> Result<(), Cut> {
        while self.behind < self.upto {
            let (cut, transactions) = window::window(self.client, self.behind, self.upto).await?;
            self.seen.received = self.seen.received.max(cut);
            self.transactions(&transactions, out).await?;
            self.behind = cut;
        }
        self.seen.received = self.seen.received.max(self.upto);
        Ok(())
    }

    async fn transactions(&mut self, all: &[Found], out: &Sender<Transaction>) -> Result<(), Cut> {
        let (mut first, mut from, mut open) = (0, (Lsn(0), -1), None::<Open>);
        while first < all.len() {
            let xids: Vec<&str> = all[first..].iter().map(|one| one.xid.as_str()).collect();
            let limit = self.limit;
            let rows = window::rows(self.client, &xids, from, limit, PIECE).await?;
            let (mut place, mut bytes) = (first, 0_usize);
            for row in &rows {
                let at = first + usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or_default();
                let here = (lsn(row.get(1))?, row.get::<_, i64>(2));
                if at < place || (at == place && here <= from) || at >= all.len() {
                    return Err(Fault::retry("the source gave the journal out of its order").into());
                }
                while place < at {
                    self.end(open.take(), &all[place], out).await?;
                    place += 1;
                }
                from = here;
                let (key, line) = (window::text(row, 5)?, window::text(row, 6)?);
                bytes = usize::try_from(row.get::<_, i64>(7)).unwrap_or_default();
                let Some(row) = self.row(row, here.0, key, line).await? else { continue };
                if open.is_none() {
                    open = Some(self.begin(&all[at])?);
                }
                if let Some(open) = &mut open {
                    for part in open.take(row)? {
                        self.hand_on(out, part).await?;
                    }
                }
            }
            // By the bytes that the source has counted and cut by: in another encoding they are others.
            let is_last = (rows.len() as i64) < limit && bytes < PIECE;
            self.fit(rows.len(), bytes);
            first = place;
            if is_last {
                while first < all.len() {
                    self.end(open.take(), &all[first], out).await?;
                    first += 1;
                }
            }
        }
        Ok(())
    }

    /// The next piece has about as many rows as fit; at most fourfold, as one piece says little about the next.
    fn fit(&mut self, rows: usize, bytes: usize) {
        if let Some(average) = bytes.checked_div(rows) {
            let fitting = i64::try_from(PIECE / (average + ROW)).unwrap_or(MOST_ROWS);
            self.limit = fitting.clamp(1, MOST_ROWS).min(self.limit * 4);
        }
    }

    fn begin(&mut self, found: &Found) -> Result<Open, Fault> {
        let skip = match self.half.take() {
            None => 0,
            Some(half) if half.major == found.commit.0 => half.minor,
            Some(half) => return Err(vanished(half, found.commit)),
        };
        let xid = found.xid.parse().map_err(|_| Fault::retry(format!("`{}` is no transaction", found.xid)))?;
        Ok(Open::new(xid, found.commit, found.at, skip, self.settings.part_bytes))
    }

    async fn end(&mut self, open: Option<Open>, found: &Found, out: &Sender<Transaction>) -> Result<(), Cut> {
        let open = match open {
            Some(open) => open,
            None => self.begin(found)?,
        };
        for part in open.end()? {
            self.hand_on(out, part).await?;
        }
        Ok(())
    }

    /// A row with what its text holds; nothing for a statement that somebody knows to be lost.
    async fn row<'r>(
        &mut self,
        row: &tokio_postgres::Row,
        lsn: Lsn,
        key: Option<&'r str>,
        line: Option<&'r str>,
    ) -> Result<Option<Row<'r>>, Fault> {
        let op = row.get::<_, String>(3).bytes().next().unwrap_or_default();
        let known = match row.get::<_, Option<i32>>(4) {
            Some(shape) => Some(self.shapes.known(self.client, shape).await?),
            None => None,
        };
        if op == b'x' {
            let Lost { known: lost, upto, watched } = &self.settings.lost;
            let Some(known) = known else { return Ok(None) };
            // The shape is that of the root that it had; the line says whose statement it was.
            let table = line.and_then(|oid| oid.parse().ok());
            let is_watched = table.is_none_or(|oid: u32| watched.contains(&oid));
            return match !is_watched || lsn <= *upto && lost.contains(&known.relation.oid) {
                true => Ok(None),
                false => Err(Fault::retry(format!(
                    "{} was altered at the source; both sides are looked at again",
                    known.relation.name
                ))),
            };
        }
        Ok(Some(Row { op, known, key, line }))
    }

    /// An empty transaction for WAL without anything for us, when it is time: the checkpoint stays near the source's end,
    /// so that a source that was put back is noticed.
    async fn mark(&mut self, out: &Sender<Transaction>) -> Result<(), Cut> {
        let end = end_of(self.upto);
        if Instant::now() < self.mark_by || end <= self.handed || self.half.is_some() || self.behind < self.upto {
            return Ok(());
        }
        self.mark_by = Instant::now() + self.settings.mark_interval;
        let mark = Transaction { xid: 0, commit: self.upto, end, committed_at: 0, changes: Vec::new(), bytes: 0 };
        self.hand_on(out, mark).await
    }

    async fn hand_on(&mut self, out: &Sender<Transaction>, transaction: Transaction) -> Result<(), Cut> {
        let (bytes, end) = (transaction.bytes, transaction.end);
        let mut sent = pin!(out.send(transaction, bytes));
        loop {
            tokio::select! {
                sent = &mut sent => {
                    let Ok(()): Result<(), Closed> = sent else { return Err(Cut::Stop) };
                    self.handed = self.handed.max(end);
                    return Ok(());
                }
                stop = stopped(&mut self.watches.stop) => if stop { return Err(Cut::Stop) },
                moved = self.watches.checkpoint.changed() => if moved.is_err() { return Err(Cut::Stop) },
            }
        }
    }

    /// Until the bell rings (true), or it is time to look.
    async fn wait(&mut self) -> Result<bool, Cut> {
        let until = Instant::now() + self.settings.poll;
        loop {
            tokio::select! {
                () = self.bell.notified() => return Ok(true),
                () = tokio::time::sleep_until(until) => return Ok(false),
                stop = stopped(&mut self.watches.stop) => if stop { return Err(Cut::Stop) },
                moved = self.watches.checkpoint.changed() => match moved {
                    Ok(()) => self.publish(true),
                    Err(_) => return Err(Cut::Stop),
                },
            }
        }
    }

    async fn pause(&mut self, time: Duration) -> Result<(), Cut> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            stop = stopped(&mut self.watches.stop) => if stop { Err(Cut::Stop) } else { Ok(()) },
        }
    }

    /// `all`: nothing is known to wait behind what was handed on.
    fn publish(&mut self, all: bool) {
        self.seen.handed = all.then_some(self.handed);
        self.seen.confirmed = self.watches.checkpoint.borrow_and_update().lsn();
        let seen = self.seen;
        self.watches.progress.send_if_modified(|shown| std::mem::replace(shown, seen) != seen);
    }
}

/// Whether to stop; a supervisor that is gone wants it too.
async fn stopped(stop: &mut watch::Receiver<bool>) -> bool {
    stop.changed().await.map_or(true, |()| *stop.borrow_and_update())
}
