//! Keeps the time line: hears what is told, looks at what the route and the jobs show, and writes it down in the source.
//! Off the way of changes: a source that is slow or away only fills a queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tracing::warn;

use crate::ledger::activity;
use crate::pg::{self, Client, Url};
use crate::status::{State, Status, TableState};
use crate::types::{Activity, Fault, JobState, JobView, TableReport, Timeline, Told, Verdict};

/// Lines that are written at once.
const AT_ONCE: usize = 200;
/// After what did not work; the queue waits meanwhile.
const AGAIN: Duration = Duration::from_secs(5);
/// A source that does not answer is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often what is old is taken away.
const PRUNE: Duration = Duration::from_secs(3600);

/// Writes what is told, for ever.
pub async fn write(url: Url, create: bool, told: Arc<Mutex<Told>>) {
    let mut told = told.lock().await;
    let (mut client, mut pruned, mut complained) = (None, None::<Instant>, false);
    let mut lines = Vec::new();
    loop {
        if told.queue.recv_many(&mut lines, AT_ONCE).await == 0 {
            return;
        }
        let lost = told.lost();
        if lost > 0 {
            lines.push(Activity::new("service", "lockstep", format!("{lost} lines of this time line were lost")));
        }
        loop {
            let due = pruned.is_none_or(|at: Instant| at.elapsed() >= PRUNE);
            let end = tokio::time::timeout(PATIENCE, put(&url, create, &mut client, &lines, due)).await;
            let fault = match end {
                Ok(Ok(())) => {
                    if due {
                        pruned = Some(Instant::now());
                    }
                    complained = false;
                    break;
                }
                Ok(Err(fault)) => fault,
                Err(_) => Fault::retry("the source does not answer"),
            };
            client = None;
            // A source that lets nobody in is told by the route.
            if matches!(fault, Fault::Stop { .. }) && !complained {
                warn!(cause = %fault, "the time line cannot be kept now");
                complained = true;
            }
            tokio::time::sleep(AGAIN).await;
        }
        lines.clear();
    }
}

/// What waits is written before the end, if that is quick.
pub async fn flush(url: Url, create: bool, told: Arc<Mutex<Told>>) {
    let mut told = told.lock().await;
    let mut lines = Vec::new();
    while let Ok(line) = told.queue.try_recv() {
        lines.push(line);
    }
    if !lines.is_empty() {
        let _ = tokio::time::timeout(Duration::from_secs(2), put(&url, create, &mut None, &lines, false)).await;
    }
}

async fn put(url: &Url, create: bool, kept: &mut Option<Client>, lines: &[Activity], prune: bool) -> Result<(), Fault> {
    let client = match kept.take().filter(|client| !client.is_closed()) {
        Some(client) => client,
        None => {
            let client = pg::connect(url, "lockstep activity").await?;
            let bounds = "set lock_timeout = '5s'; set statement_timeout = '10s'";
            client.batch_execute(bounds).await.map_err(|error| pg::client::fault(&error))?;
            activity::ensure(&client, create).await?;
            client
        }
    };
    activity::write(&client, lines).await?;
    *kept = Some(client);
    match kept {
        // What stays too long harms nobody.
        Some(client) if prune => activity::prune(client).await.or(Ok(())),
        _ => Ok(()),
    }
}

/// Looks at the route and the jobs, for ever, and tells what changes.
pub async fn observe(timeline: Timeline, mut status: watch::Receiver<Status>, mut book: watch::Receiver<Vec<JobView>>) {
    let mut seen = Seen::default();
    loop {
        seen.route(&status.borrow_and_update().clone()).into_iter().for_each(|line| timeline.tell(line));
        seen.jobs(&book.borrow_and_update().clone()).into_iter().for_each(|line| timeline.tell(line));
        tokio::select! {
            Ok(()) = status.changed() => {}
            Ok(()) = book.changed() => {}
            else => return,
        }
    }
}

/// What was seen last: a line is told when it is something else.
#[derive(Default)]
struct Seen {
    route: Option<State>,
    tables: BTreeMap<String, TableState>,
    parked: BTreeMap<String, u64>,
    /// Jobs that are known, with whether they are finished.
    jobs: BTreeMap<String, bool>,
}

const SERVICE: &str = "lockstep";

impl Seen {
    fn route(&mut self, status: &Status) -> Vec<Activity> {
        let mut lines = Vec::new();
        let line = |what: &str| Activity::new("route", SERVICE, what);
        let told = match (&status.state, &self.route) {
            (now, Some(before)) if now == before => None,
            // What is tried again and fails again is one trouble.
            (State::Waiting { .. }, Some(State::Waiting { .. })) => None,
            (State::Starting | State::Draining, _) => None,
            (State::Waiting { cause }, _) => Some(line("interrupted").because(cause.as_str())),
            (State::Stopped { cause, fix }, _) => Some(line("stopped").because(format!("{cause}; to do: {fix}"))),
            (State::NotConfigured { missing }, _) => Some(line("not configured").because(missing.join(", "))),
            (State::Copying, _) => Some(line("copying")),
            (State::Streaming, _) => Some(line("streaming")),
        };
        if !matches!(status.state, State::Starting | State::Draining) {
            self.route = Some(status.state.clone());
        }
        lines.extend(told);
        for table in &status.tables {
            let before = self.tables.insert(table.name.clone(), table.state.clone());
            lines.extend(table_line(&table.name, before.as_ref(), &table.state));
        }
        for parked in &status.parked {
            let rows = parked.rows;
            let before = self.parked.insert(parked.name(), rows).unwrap_or(0);
            if rows > before {
                let what = format!("{} set aside, {rows} in all", counted(rows - before));
                lines.push(Activity::new("parked", SERVICE, what).at(parked.name()));
            }
        }
        let gone = |name: &String| status.parked.iter().all(|parked| parked.name() != *name);
        for name in self.parked.keys().filter(|name| gone(name)).cloned().collect::<Vec<_>>() {
            self.parked.remove(&name);
            lines.push(Activity::new("parked", SERVICE, "no row is parked any more").at(name));
        }
        lines
    }

    fn jobs(&mut self, book: &[JobView]) -> Vec<Activity> {
        let mut lines = Vec::new();
        for view in book {
            let finished = matches!(view.state, JobState::Done | JobState::Failed { .. });
            if self.jobs.insert(view.id.clone(), finished) != Some(finished) && finished {
                lines.push(job_line(view));
            }
        }
        self.jobs.retain(|id, _| book.iter().any(|view| view.id == *id));
        lines
    }
}

fn counted(rows: u64) -> String {
    if rows == 1 { "1 row was".into() } else { format!("{rows} rows were") }
}

fn table_line(name: &str, before: Option<&TableState>, now: &TableState) -> Option<Activity> {
    let line = |what: &str| Some(Activity::new("table", SERVICE, what).at(name));
    match (before, now) {
        (Some(before), now) if before == now => None,
        (_, TableState::Parked { cause }) => line("parked").map(|line| line.because(cause.as_str())),
        (_, TableState::Paused) => line("paused"),
        (Some(TableState::Parked { .. } | TableState::Paused), _) => line("takes part again"),
        _ => None,
    }
}

fn job_line(view: &JobView) -> Activity {
    let what = if view.job.repair { "compared and repaired" } else { "compared" };
    let who = if view.job.why.starts_with("schedule") { "schedule" } else { SERVICE };
    let sum = |of: fn(&TableReport) -> u64| view.reports.iter().map(of).sum::<u64>();
    let detail = match &view.state {
        JobState::Failed { why } => format!("failed: {why}"),
        _ => {
            let unknown = view.reports.iter().filter(|r| matches!(r.verdict, Verdict::Unknown { .. })).count();
            let unknown = if unknown > 0 { format!(", {unknown} tables could not be told") } else { String::new() };
            let (tables, found, repaired) =
                (view.reports.len(), sum(TableReport::differences), sum(TableReport::repaired));
            format!("{}: {tables} tables, {found} rows differed, {repaired} were repaired{unknown}", view.job.why)
        }
    };
    let line = Activity {
        at: view.finished_at.unwrap_or_else(Timestamp::now),
        ..Activity::new("job", who, what).because(format!("{detail} (job {})", view.id))
    };
    match &view.job.tables[..] {
        [one] => line.at(one.to_string()),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::TableStatus;

    fn status(state: State, table: TableState) -> Status {
        let tables = vec![TableStatus { name: "public.t".into(), state: table, rows: 0, changed_at: None }];
        Status { state, tables, ..Status::starting("to_supabase", "s", "t") }
    }

    #[test]
    fn what_changes_is_told_once_and_what_stays_is_not() {
        let mut seen = Seen::default();
        let mut told = |state, table| {
            let lines = seen.route(&status(state, table));
            lines.into_iter().map(|line| line.what).collect::<Vec<_>>()
        };
        let cut = |n: u32| State::Waiting { cause: format!("cut {n}") };
        let parked = || TableState::Parked { cause: "no column".into() };
        assert_eq!(told(State::Starting, TableState::Streaming), [""; 0]);
        assert_eq!(told(State::Streaming, TableState::Streaming), ["streaming"]);
        assert_eq!(told(State::Streaming, TableState::Streaming), [""; 0]);
        assert_eq!(told(cut(1), TableState::Streaming), ["interrupted"]);
        assert_eq!(told(cut(2), TableState::Streaming), [""; 0]);
        assert_eq!(told(State::Starting, TableState::Streaming), [""; 0]);
        assert_eq!(told(State::Streaming, parked()), ["streaming", "parked"]);
        assert_eq!(told(State::Streaming, parked()), [""; 0]);
        assert_eq!(told(State::Copying, TableState::Pending), ["copying", "takes part again"]);
    }
}
