//! Keeps the status and the metrics true while a route runs: gathers what the parts say and publishes it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::judge::Finding;
use super::lateness::Lateness;
use super::tables::Aside;
use crate::apply::Event;
use crate::capture::Progress;
use crate::clock::SourceClock;
use crate::metrics;
use crate::status::{Lag, LastError, State, Status, TableEvent, TableState, TableStatus};
use crate::types::{CopyMark, ParkedRows, Position, Table};

/// The status is published at most this often while much happens, and at least this often while nothing does.
const OFTEN: Duration = Duration::from_millis(250);
const SELDOM: Duration = Duration::from_secs(2);

pub struct Report<'a> {
    status: &'a watch::Sender<Status>,
    /// The status as it will be published next.
    next: Status,
    place: HashMap<String, usize>,
    lateness: Lateness,
    /// The clock by which commits are stamped.
    clock: watch::Receiver<Option<SourceClock>>,
    /// Tables that the batch in flight changes.
    touched: Vec<String>,
    trouble: Option<String>,
    /// Why the target does not even answer.
    silence: Option<String>,
    counted: (Instant, u64),
    rows: u64,
    /// A table's state is not in the metrics yet. Of ten thousand tables that is much work, so it is done once for many.
    stale: bool,
}

impl<'a> Report<'a> {
    pub fn new(
        status: &'a watch::Sender<Status>,
        tables: &[Table],
        findings: &[Finding],
        aside: &[Aside],
        checkpoint: Position,
        clock: watch::Receiver<Option<SourceClock>>,
    ) -> Self {
        let now = Timestamp::now();
        let mut next = status.borrow().clone();
        let before: HashMap<String, TableStatus> =
            std::mem::take(&mut next.tables).into_iter().map(|table| (table.name.clone(), table)).collect();
        next.tables = tables.iter().zip(findings).map(|(table, finding)| table_status(table, finding)).collect();
        next.tables.extend(aside.iter().map(|aside| {
            let (name, state) = (aside.table.name.to_string(), aside.state.clone());
            TableStatus { name, state, rows: 0, changed_at: None }
        }));
        next.tables.sort_by(|a, b| a.name.cmp(&b.name));
        for table in &mut next.tables {
            if let Some(before) = before.get(&table.name) {
                (table.rows, table.changed_at) = (before.rows, before.changed_at);
            }
        }
        next.held = None;
        next.checkpoint = Some(checkpoint);
        next.source.set(true, now);
        next.target.set(true, now);
        let place = next.tables.iter().enumerate().map(|(at, table)| (table.name.clone(), at)).collect();
        connected(true, true);
        let counted = (Instant::now(), 0);
        metrics::get().begin_tables(next.tables.iter().map(|table| table.name.as_str()));
        metrics::get().route_starts.inc();
        let (lateness, touched) = (Lateness::default(), Vec::new());
        let (trouble, silence) = (None, None);
        let report =
            Self { status, next, place, lateness, clock, touched, trouble, silence, counted, rows: 0, stale: false };
        report.count_tables();
        report
    }

    /// Listens to the parts for as long as the route lives.
    pub async fn keep(
        &mut self,
        mut progress: watch::Receiver<Progress>,
        mut settled: watch::Receiver<Position>,
        durable: watch::Receiver<Position>,
        pulse: watch::Receiver<Option<String>>,
        mut events: mpsc::UnboundedReceiver<Event>,
    ) -> Infallible {
        let mut published = Instant::now() - SELDOM;
        let mut tick = tokio::time::interval(OFTEN);
        loop {
            let mut news = false;
            tokio::select! {
                Some(event) = events.recv() => {
                    self.take(event);
                    while let Ok(event) = events.try_recv() {
                        self.take(event);
                    }
                    news = true;
                }
                _ = tick.tick() => {}
            }
            news |= self.felt(pulse.borrow().clone());
            // What was read is asked first: what the target holds may then be newer than it, never older.
            let read = *progress.borrow_and_update();
            let done = *settled.borrow_and_update();
            let held = *durable.borrow();
            // Apply tells what it set aside before it tells that it is done with it: so it is heard before, too.
            while let Ok(event) = events.try_recv() {
                self.take(event);
            }
            self.measure(read, done);
            self.next.held = Some(match read.handed.is_some_and(|handed| held >= handed) {
                true => held.max(Position::at(read.received)),
                false => held,
            });
            let wait = if news || self.lateness.is_behind() { OFTEN } else { SELDOM };
            if published.elapsed() >= wait {
                self.publish();
                published = Instant::now();
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Written { table, kind, rows } => {
                let (table, now) = (table.to_string(), Timestamp::now());
                let metrics = metrics::get();
                let label = metrics.table(&table);
                metrics.rows.with_label_values(&[label, kind]).inc_by(rows);
                metrics.table_changed.set(label, now.as_second() as f64);
                self.rows += rows;
                if let Some(&at) = self.place.get(&table) {
                    self.next.tables[at].rows += rows;
                    self.next.tables[at].changed_at = Some(now);
                }
                if kind != "copy" && !self.touched.contains(&table) {
                    self.touched.push(table);
                }
            }
            Event::Begun { committed_at } => self.lateness.begun(committed_at),
            Event::Settled { committed_at } => {
                let seconds = self.lateness.settled(committed_at, self.now());
                let metrics = metrics::get();
                metrics.latency.observe(seconds);
                for table in self.touched.drain(..) {
                    metrics.table_lag_seconds.set(metrics.table(&table), seconds);
                }
            }
            Event::Copied(mark) => self.copied(&mark),
            Event::Parked { tables, discarded } => self.parked(tables, discarded),
            Event::Trouble(cause) => self.troubled(cause),
        }
    }

    fn copied(&mut self, mark: &CopyMark) {
        let name = mark.table.to_string();
        let Some(&at) = self.place.get(&name) else { return };
        let table = &mut self.next.tables[at];
        let estimated = match &table.state {
            TableState::Copying { estimated, .. } => *estimated,
            _ => 0,
        };
        if let TableState::Copying { copied, .. } = table.state {
            let event = TableEvent::Copied { rows: mark.rows.saturating_sub(copied) };
            table.state = table.state.after(event).unwrap_or(TableState::Streaming);
        }
        if mark.done {
            table.state = table.state.after(TableEvent::CopyFinished).unwrap_or(TableState::Streaming);
        }
        let metrics = metrics::get();
        let label = metrics.table(&name);
        metrics.copied_rows.with_label_values(&[label]).set(mark.rows as i64);
        metrics.copy_estimated_rows.with_label_values(&[label]).set(estimated as i64);
        self.stale = true;
    }

    /// What is parked now.
    pub fn parked(&mut self, tables: Vec<ParkedRows>, discarded: Option<u64>) {
        let metrics = metrics::get();
        let now = Timestamp::now().as_second();
        metrics.parked_rows.reset();
        for table in &self.next.tables {
            metrics.parked_rows.with_label_values(&[metrics.table(&table.name)]);
        }
        for table in &tables {
            // Several tables may share the label `other`.
            metrics.parked_rows.with_label_values(&[metrics.table(&table.name())]).add(table.rows as i64);
        }
        let oldest = tables.iter().map(|table| table.oldest).min();
        metrics.parked_oldest_seconds.set(oldest.map_or(0, |oldest| (now - oldest).max(0)));
        if let Some(discarded) = discarded {
            // The target counts, since a row may be discarded while no service runs.
            metrics.rows_discarded.inc_by(discarded.saturating_sub(metrics.rows_discarded.get()));
        }
        self.next.parked = tables;
    }

    fn troubled(&mut self, cause: Option<String>) {
        self.trouble = cause.clone();
        self.answers(cause);
    }

    /// Somebody looks, so the target was asked whether it is there. Says whether that is news.
    fn felt(&mut self, cause: Option<String>) -> bool {
        let news = self.silence != cause;
        if news {
            self.silence = cause.clone();
            self.answers(cause);
        }
        news
    }

    /// `cause` is why it does not, as far as who noticed knows.
    fn answers(&mut self, cause: Option<String>) {
        let now = Timestamp::now();
        let well = self.trouble.is_none() && self.silence.is_none();
        self.next.target.set(well, now);
        connected(true, well);
        if let Some(cause) = cause {
            self.next.last_error = Some(LastError { at: now, cause, fix: None });
        }
    }

    fn measure(&mut self, read: Progress, done: Position) {
        let received = read.received.0.max(done.major);
        self.next.checkpoint = Some(done);
        self.next.received = Some(Position { major: received, minor: 0 });
        // What was read behind the last change holds nothing for us.
        let all = read.handed.is_some_and(|handed| done >= handed);
        let bytes = if all { 0 } else { received.saturating_sub(done.major) };
        self.lateness.look(read.sent_at, bytes > 0, done, Instant::now());
        // A server that has said nothing yet may hold anything: no lag is known then.
        let known = read.sent_at > 0;
        let seconds = known.then(|| self.lateness.seconds(self.now(), Instant::now()));
        self.next.lag = Lag { seconds, bytes: known.then_some(bytes) };
        let metrics = metrics::get();
        metrics.lag_seconds.set(seconds);
        metrics.lag_bytes.set(known.then_some(bytes as f64));
    }

    /// What the source's clock says now, in microseconds since the Unix epoch. This host's own will do for the moment
    /// until the source was asked.
    fn now(&self) -> i64 {
        let clock = *self.clock.borrow();
        clock.map_or_else(|| Timestamp::now().as_microsecond(), |clock| clock.at(Instant::now()))
    }

    fn publish(&mut self) {
        let (since, rows) = self.counted;
        let elapsed = since.elapsed().as_secs_f64();
        if elapsed >= 1.0 {
            self.next.rows_per_second = (self.rows - rows) as f64 / elapsed;
            self.counted = (Instant::now(), self.rows);
        }
        let copying = |table: &TableStatus| matches!(table.state, TableState::Pending | TableState::Copying { .. });
        self.next.state = match self.trouble.as_ref().or(self.silence.as_ref()) {
            Some(cause) => State::Waiting { cause: cause.clone() },
            None if self.next.tables.iter().any(copying) => State::Copying,
            None => State::Streaming,
        };
        if std::mem::take(&mut self.stale) {
            self.count_tables();
        }
        self.next.updated_at = Timestamp::now();
        self.status.send_replace(self.next.clone());
    }

    fn count_tables(&self) {
        let metrics = metrics::get();
        metrics.table_info.reset();
        for word in ["pending", "copying", "streaming", "parked", "paused"] {
            let mut count = 0;
            for table in self.next.tables.iter().filter(|table| table.state.word() == word) {
                metrics.table_info.with_label_values(&[metrics.table(&table.name), word]).set(1);
                count += 1;
            }
            metrics.tables.with_label_values(&[word]).set(count);
        }
    }
}

fn table_status(table: &Table, finding: &Finding) -> TableStatus {
    let state = if finding.copied {
        TableState::Streaming
    } else {
        TableState::Copying { copied: finding.rows, estimated: table.estimated_rows }
    };
    TableStatus { name: table.name.to_string(), state, rows: 0, changed_at: None }
}

/// The gauges of both ends.
pub fn connected(source: bool, target: bool) {
    let metrics = metrics::get();
    if !source {
        // Nothing is known of a route that is down, and nobody may take yesterday's lag for today's.
        metrics.lag_seconds.set(None);
        metrics.lag_bytes.set(None);
    }
    metrics.connected.with_label_values(&["source"]).set(i64::from(source));
    metrics.connected.with_label_values(&["target"]).set(i64::from(target));
}
