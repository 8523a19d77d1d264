//! Runs what was asked for, one job at a time and one table of it at a time: comparing reads all of a table on both
//! sides, and two at once would only be in each other's way. A route that is interrupted costs the table at work, which
//! is begun again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use super::calendar::{Calendar, Due, Entry};
use super::history::History;
use crate::status::{Jobs, RunningJob, State, Status, TableState};
use crate::types::{Fault, Job, JobState, JobView, Phase, Progress, TableName, TableReport, Verdict};

/// Somebody wants a job done. The answer comes at once: its id, or why it is not taken.
#[derive(Debug)]
pub struct Ask {
    pub job: Job,
    pub reply: oneshot::Sender<Result<String, String>>,
}

/// One table for the engine. It takes it while a route runs; a reply that is dropped means that the route ended.
#[derive(Debug)]
pub struct Work {
    pub table: TableName,
    pub repair: bool,
    /// Only what is newest counts.
    pub progress: watch::Sender<Option<Progress>>,
    pub reply: oneshot::Sender<Result<TableReport, Fault>>,
}

pub struct Runner {
    pub asks: mpsc::Receiver<Ask>,
    /// To the route that runs.
    pub work: mpsc::Sender<Work>,
    pub status: watch::Receiver<Status>,
    pub jobs: watch::Sender<Jobs>,
    /// The newest jobs, for who asks how far one is.
    pub book: watch::Sender<Vec<JobView>>,
    pub history: History,
    pub entries: Vec<Entry>,
    pub jitter: Duration,
    pub catch_up: bool,
    /// Tables that were copied over unseen and whose comparison was asked for: once, the schedule does the rest.
    pub seen_to: BTreeSet<String>,
}

/// Jobs that wait. More of them than this are a mistake of whoever asks.
const QUEUED: usize = 16;
/// Finished jobs that are remembered with their reports (at most a few hundred kilobytes each).
const REMEMBERED: usize = 20;
/// The clock may be set, and a machine may sleep: whoever waits for a time of day looks again now and then.
const LOOK: Duration = Duration::from_secs(20);
/// How often a table is begun again, and the pause before.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// Without a route for so long, a job is given up; the next one is not far.
const PATIENCE: Duration = Duration::from_secs(600);

impl Runner {
    pub async fn run(mut self) {
        let past = self.history.begin().await;
        self.jobs.send_modify(|jobs| {
            // What the route's own comparison has found meanwhile is newer.
            for (table, rows) in past.different {
                jobs.different.entry(table).or_insert(rows);
            }
            jobs.last_success_at = past.last_success;
            for (table, verified) in past.verified {
                jobs.verified.entry(table).or_insert(verified);
            }
        });
        for (table, at) in past.equal {
            let metrics = crate::metrics::get();
            metrics.table_equal.set(metrics.table(&table), at.as_second() as f64);
        }
        self.metrics();
        let scheduled = if self.catch_up { past.scheduled } else { BTreeMap::new() };
        let mut calendar = Calendar::new(std::mem::take(&mut self.entries), self.jitter, &scheduled, Timestamp::now());
        let mut queue = VecDeque::new();
        loop {
            self.due(&mut calendar, &mut queue);
            self.publish(&calendar, &queue);
            let Some(view) = queue.pop_front() else {
                tokio::select! {
                    ask = self.asks.recv() => match ask {
                        Some(ask) => self.take(ask, &mut queue),
                        None => return,
                    },
                    () = tokio::time::sleep(until(calendar.next())) => {}
                }
                continue;
            };
            self.carry_out(view, &mut queue, &calendar).await;
        }
    }

    /// What the schedule wants now. A route that is not up yet is waited for: it may have moved on by then.
    fn due(&mut self, calendar: &mut Calendar, queue: &mut VecDeque<JobView>) {
        let status = self.status.borrow().clone();
        if !is_up(&status) {
            return;
        }
        let streaming = |table: &&crate::status::TableStatus| table.state == TableState::Streaming;
        let tables: Vec<String> = status.tables.iter().filter(streaming).map(|table| table.name.clone()).collect();
        let unseen: Vec<String> = self
            .jobs
            .borrow()
            .different
            .iter()
            .filter(|(_, rows)| **rows == 0)
            .map(|(table, _)| table.clone())
            .collect();
        self.seen_to.retain(|name| unseen.contains(name));
        for name in unseen {
            if tables.contains(&name) && queue.len() < QUEUED && self.seen_to.insert(name.clone()) {
                let why = "it was copied over what was there".to_owned();
                self.enqueue(Job { tables: vec![TableName::parse(&name)], repair: true, why }, queue);
            }
        }
        for Due { why, tables } in calendar.take(Timestamp::now(), &tables) {
            let waits = queue.iter().any(|view: &JobView| view.job.why == why);
            if !waits && queue.len() < QUEUED {
                let tables = tables.iter().map(|name| TableName::parse(name)).collect();
                self.enqueue(Job { tables, repair: true, why }, queue);
            }
        }
    }

    fn take(&mut self, ask: Ask, queue: &mut VecDeque<JobView>) {
        let answer = match queue.len() < QUEUED {
            true => Ok(self.enqueue(ask.job, queue)),
            false => Err(format!("{QUEUED} jobs are waiting already; wait until one is done")),
        };
        let _ = ask.reply.send(answer); // who asked may be gone; the job is done all the same
    }

    fn enqueue(&mut self, job: Job, queue: &mut VecDeque<JobView>) -> String {
        let id = id();
        let view = JobView {
            id: id.clone(),
            job,
            state: JobState::Queued,
            progress: None,
            reports: Vec::new(),
            asked_at: Timestamp::now(),
            started_at: None,
            finished_at: None,
        };
        self.note(&view);
        queue.push_back(view);
        id
    }

    /// The job from its begin to its end; who asks meanwhile is answered.
    async fn carry_out(&mut self, mut view: JobView, queue: &mut VecDeque<JobView>, calendar: &Calendar) {
        view.state = JobState::Running;
        view.started_at = Some(Timestamp::now());
        let (tables, refused) = self.tables(&view.job).await;
        info!(job = %view.id, why = %view.job.why, repair = view.job.repair, tables = tables.len(), "a run begins");
        self.history.run(&view.id, &view.job, &tables).await;
        view.reports.extend(refused);
        let many = tables.len();
        for (done, table) in tables.into_iter().enumerate() {
            self.running(&view, &table, done, many);
            let end = self.one(&mut view, &table, queue, calendar).await;
            match end {
                Ok(report) => {
                    self.reported(&view, &report).await;
                    view.reports.push(report);
                }
                Err(why) => {
                    warn!(job = %view.id, %table, cause = %why, "a run was given up");
                    self.history.failed(&view.id, &why).await;
                    view.state = JobState::Failed { why };
                    break;
                }
            }
        }
        self.finish(view);
    }

    fn finish(&mut self, mut view: JobView) {
        view.finished_at = Some(Timestamp::now());
        view.progress = None;
        if view.state == JobState::Running {
            view.state = JobState::Done;
        }
        let well = view.state == JobState::Done && view.reports.iter().all(|report| report.verdict == Verdict::Equal);
        let found: u64 = view.reports.iter().map(TableReport::differences).sum();
        let repaired: u64 = view.reports.iter().map(TableReport::repaired).sum();
        info!(job = %view.id, why = %view.job.why, found, repaired, equal = well, "a run has ended");
        self.jobs.send_modify(|jobs| {
            jobs.running = None;
            if well {
                jobs.last_success_at = view.finished_at;
            }
        });
        let metrics = crate::metrics::get();
        let told = view.state == JobState::Done
            && !view.reports.iter().any(|report| matches!(report.verdict, Verdict::Unknown { .. }));
        let result = if well {
            "equal"
        } else if told {
            "different"
        } else {
            "failed"
        };
        metrics.reconcile_runs.with_label_values(&[result]).inc();
        metrics.reconcile_last_run.set(view.finished_at.map(|at| at.as_second() as f64));
        let took = view.finished_at.zip(view.started_at).map(|(end, start)| end.duration_since(start).as_secs_f64());
        metrics.reconcile_duration.set(took);
        self.note(&view);
        self.metrics();
    }

    /// The tables to look at, and a report of each that was asked for and cannot be looked at now.
    async fn tables(&mut self, job: &Job) -> (Vec<TableName>, Vec<TableReport>) {
        // A route that has only just begun knows its tables in a moment.
        let _ = tokio::time::timeout(PATIENCE, self.status.wait_for(is_up)).await;
        let status = self.status.borrow().clone();
        let mut all: Vec<TableName> = status.tables.iter().map(|table| TableName::parse(&table.name)).collect();
        if !job.tables.is_empty() {
            all = job.tables.clone();
        }
        let (mut fit, mut refused) = (Vec::new(), Vec::new());
        for table in all {
            let name = table.to_string();
            let state = status.tables.iter().find(|known| known.name == name).map(|known| &known.state);
            let why = match state {
                Some(TableState::Streaming | TableState::Copying { .. } | TableState::Pending) => None,
                Some(TableState::Paused) => Some("it is paused".to_owned()),
                Some(TableState::Parked { cause }) => Some(format!("it is parked: {cause}")),
                None => Some("it is not replicated".to_owned()),
            };
            match why {
                None => fit.push(table),
                Some(why) => {
                    refused.push(TableReport { verdict: Verdict::Unknown { why }, ..TableReport::new(table) });
                }
            }
        }
        (fit, refused)
    }

    /// One table, as often as it takes.
    async fn one(
        &mut self,
        view: &mut JobView,
        table: &TableName,
        queue: &mut VecDeque<JobView>,
        calendar: &Calendar,
    ) -> Result<TableReport, String> {
        let mut last = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            self.streaming(table).await?;
            let (progress, mut seen) = watch::channel(None);
            let (reply, mut done) = oneshot::channel();
            let work = Work { table: table.clone(), repair: view.job.repair, progress, reply };
            self.work.send(work).await.map_err(|_| "the service is stopping".to_owned())?;
            let end = loop {
                tokio::select! {
                    end = &mut done => break end,
                    Ok(()) = seen.changed() => {
                        let progress = seen.borrow_and_update().clone();
                        self.progress(view, progress);
                    }
                    Some(ask) = self.asks.recv() => {
                        self.take(ask, queue);
                        self.publish(calendar, queue);
                    }
                }
            };
            match end {
                Ok(Ok(report)) => return Ok(report),
                Ok(Err(Fault::Retry { cause })) => last = cause,
                Ok(Err(fault)) => {
                    let verdict = Verdict::Unknown { why: fault.to_string() };
                    return Ok(TableReport { verdict, ..TableReport::new(table.clone()) });
                }
                Err(_) => last = "the route was interrupted".into(),
            }
            info!(job = %view.id, %table, cause = %last, "the comparison of a table is begun again");
        }
        let verdict = Verdict::Unknown { why: format!("interrupted {ATTEMPTS} times: {last}") };
        Ok(TableReport { verdict, ..TableReport::new(table.clone()) })
    }

    /// Waits until the table streams: what is copied right now is compared in doing so.
    async fn streaming(&mut self, table: &TableName) -> Result<(), String> {
        let name = table.to_string();
        let streams = |status: &Status| {
            let state = status.tables.iter().find(|known| known.name == name).map(|known| &known.state);
            is_up(status) && !matches!(state, Some(TableState::Pending | TableState::Copying { .. }))
        };
        // A first copy takes as long as it takes; a route that is down only so long.
        let mut since = Instant::now();
        loop {
            let waited = tokio::time::timeout(LOOK, self.status.wait_for(streams)).await.map(|end| end.is_ok());
            match waited {
                Ok(true) => return Ok(()),
                Ok(false) => return Err("the service is stopping".into()),
                Err(_) if is_up(&self.status.borrow()) => since = Instant::now(),
                Err(_) if since.elapsed() > PATIENCE => return Err("the route was down for too long".into()),
                Err(_) => {}
            }
        }
    }

    fn running(&self, view: &JobView, table: &TableName, done: usize, many: usize) {
        let running = RunningJob {
            id: view.id.clone(),
            why: view.job.why.clone(),
            repair: view.job.repair,
            started_at: view.started_at.unwrap_or_else(Timestamp::now),
            table: Some(table.to_string()),
            progress: None,
            tables_done: done,
            tables: many,
        };
        self.jobs.send_modify(|jobs| jobs.running = Some(running));
        crate::metrics::get().reconcile_running.set(1);
        self.note(view);
    }

    fn progress(&self, view: &mut JobView, progress: Option<Progress>) {
        self.jobs.send_modify(|jobs| {
            if let Some(running) = &mut jobs.running {
                let counts = (running.tables_done, running.tables);
                running.progress =
                    progress.map(|progress| Progress { tables_done: counts.0, tables: counts.1, ..progress });
                view.progress.clone_from(&running.progress);
            }
        });
        if view.progress.as_ref().is_some_and(|progress| progress.phase != Phase::Finished) {
            self.note(view);
        }
    }

    /// A table is finished: what it came to is known, shown and on record.
    async fn reported(&mut self, view: &JobView, report: &TableReport) {
        let name = report.table.to_string();
        let found = report.differences();
        self.jobs.send_modify(|jobs| jobs.reported(report));
        if report.verdict == Verdict::Equal {
            let metrics = crate::metrics::get();
            metrics.table_equal.set(metrics.table(&name), Timestamp::now().as_second() as f64);
        }
        match &report.verdict {
            Verdict::Equal if found == 0 => tracing::debug!(table = %name, rows = report.rows, "equal"),
            Verdict::Equal => info!(table = %name, found, repaired = report.repaired(), "repaired"),
            Verdict::Different => warn!(table = %name, found, "the two sides differ"),
            Verdict::Unknown { why } => {
                warn!(table = %name, cause = %why, "it could not be told whether both sides are equal")
            }
        }
        self.history.table(&view.id, report).await;
    }

    fn publish(&self, calendar: &Calendar, queue: &VecDeque<JobView>) {
        let (next_at, queued) = (calendar.next(), queue.len());
        self.jobs.send_if_modified(|jobs| {
            let before = (jobs.next_at, jobs.queued);
            (jobs.next_at, jobs.queued) = (next_at, queued);
            before != (next_at, queued)
        });
        let metrics = crate::metrics::get();
        metrics.reconcile_next.set(next_at.map(|at| at.as_second() as f64));
        metrics.reconcile_interval.set(calendar.interval(Timestamp::now()).map(|pause| pause.as_secs_f64()));
        // Anew each time: a table that is gone, or has no schedule any more, has no line.
        metrics.table_next.reset();
        for table in &self.status.borrow().tables {
            if let Some(next) = calendar.next_of(&table.name) {
                metrics.table_next.set(metrics.table(&table.name), next.as_second() as f64);
            }
        }
    }

    fn metrics(&self) {
        let jobs = self.jobs.borrow();
        let metrics = crate::metrics::get();
        metrics.reconcile_running.set(0);
        metrics.reconcile_last_success.set(jobs.last_success_at.map(|at| at.as_second() as f64));
        metrics.tables_different.set(jobs.different.len() as i64);
    }

    /// Writes the job into the book.
    fn note(&self, view: &JobView) {
        self.book.send_modify(|book| {
            match book.iter_mut().find(|known| known.id == view.id) {
                Some(known) => known.clone_from(view),
                None => book.push(view.clone()),
            }
            let finished = |view: &JobView| view.finished_at.is_some();
            while book.iter().filter(|view| finished(view)).count() > REMEMBERED {
                if let Some(oldest) = book.iter().position(finished) {
                    book.remove(oldest);
                }
            }
        });
    }
}

fn is_up(status: &Status) -> bool {
    matches!(status.state, State::Copying | State::Streaming) && !status.tables.is_empty()
}

fn until(next: Option<Timestamp>) -> Duration {
    let wait = next.map(|next| Duration::try_from(next.duration_since(Timestamp::now())).unwrap_or_default());
    wait.map_or(LOOK, |wait| wait.min(LOOK))
}

/// Short enough to be typed, and no two alike in a history.
fn id() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:012x}", RandomState::new().hash_one(Timestamp::now().as_nanosecond()) >> 16)
}
