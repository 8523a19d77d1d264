//! Keeps the table of sync states true: looks at what the route says, and writes what changed. It has a connection of
//! its own and nobody waits for it, so a lock on its table holds up nothing.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::standing::{Facts, Standing, standing};
use crate::ledger::sync_state::{self, Row, SyncState};
use crate::pg::{self, Client, Url};
use crate::status::{Jobs, State, Status, Synced, SyncedTable, TableState};
use crate::types::{Fault, Lsn, TableName};

pub struct Keeper {
    pub url: Url,
    pub table: TableName,
    /// Whether it may be made.
    pub create: bool,
    /// The lag up to which a table counts as in step.
    pub within: Duration,
    pub status: watch::Receiver<Status>,
    pub jobs: watch::Receiver<Jobs>,
    /// What it says, for who looks at the page.
    pub shown: watch::Sender<Synced>,
}

/// How often it looks. What `completed` waits for takes two looks.
const TICK: Duration = Duration::from_millis(500);
/// News make it look sooner, but no sooner than this.
const PROMPT: Duration = Duration::from_millis(100);
/// A row in which only the number of records changed, or the time, is written this often ..
const REFRESH: Duration = Duration::from_secs(5);
/// .. and so many of them at once: ten thousand tables take a while, and do not flood the source's WAL.
const REFRESHED: usize = 200;
/// Each row is written at least this often: its age says whether anybody is here, and who else wrote in it is
/// overruled.
const AGAIN: Duration = Duration::from_secs(30);
/// Between two attempts when it cannot be written.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(30)];
/// The last word may take so long.
const FAREWELL: Duration = Duration::from_secs(2);

impl Keeper {
    /// Until `closing` turns true. `begun` turns true once no row says `completed` any more from before the start, or it
    /// is plain that nobody can see to that.
    pub async fn run(mut self, begun: watch::Sender<bool>, mut closing: watch::Receiver<bool>) {
        let mut records = HashMap::new();
        let (mut failed, mut told) = (0, String::new());
        loop {
            let mut wrote = false;
            let Err(fault) = self.keep(&begun, &mut closing, &mut records, &mut wrote).await else { return };
            failed = if wrote { 0 } else { failed + 1 };
            begun.send_replace(true); // whoever waits for it does not wait for ever
            self.shown.send_replace(Synced::default()); // nobody looks any more
            let cause = fault.to_string();
            if cause != told {
                warn!(table = %self.table, %cause, "the sync states cannot be written now");
                told = cause;
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSES[failed.min(PAUSES.len() - 1)]) => {}
                () = closed(&mut closing) => return,
            }
        }
    }

    async fn keep(
        &mut self,
        begun: &watch::Sender<bool>,
        closing: &mut watch::Receiver<bool>,
        records: &mut HashMap<String, i64>,
        wrote: &mut bool,
    ) -> Result<(), Fault> {
        let client = pg::connect(&self.url, "lockstep state").await?;
        client.batch_execute(sync_state::SESSION).await.map_err(|error| pg::client::fault(&error))?;
        let state = sync_state::adopt(&client, &self.table, self.create).await?;
        // What an earlier process left standing is not known any more.
        state.disown(&client, &[], "in_progress", None).await?;
        for (name, &count) in &state.rows {
            records.entry(name.clone()).or_insert(count);
        }
        begun.send_replace(true);
        *wrote = true;
        let mut pen = Pen::new(client, state, records);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let looked = Instant::now();
            pen.look(self).await?;
            let news = async {
                tokio::select! {
                    Ok(()) = self.status.changed() => {}
                    Ok(()) = self.jobs.changed() => {}
                    else => std::future::pending().await,
                }
                tokio::time::sleep_until(looked + PROMPT).await;
            };
            tokio::select! {
                _ = tick.tick() => {}
                () = news => {}
                () = closed(closing) => {
                    let last = tokio::time::timeout(FAREWELL, pen.farewell()).await;
                    if !matches!(last, Ok(Ok(()))) {
                        info!(table = %self.table, "the sync states were left as they are");
                    }
                    return Ok(());
                }
            }
        }
    }
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|&stop| stop).await; // a supervisor that is gone wants it too
}

/// What it writes with, and what it has written.
struct Pen<'a> {
    client: Client,
    state: SyncState,
    /// By name: records that were synced before this process.
    records: &'a mut HashMap<String, i64>,
    written: HashMap<String, (Row, Instant)>,
    /// By table: since when, by the source's clock, it is seen to stream.
    since: HashMap<String, Timestamp>,
    /// By table: until when it was last known to be in step.
    last: HashMap<String, Option<Timestamp>>,
    /// Names of the rows that are ours.
    ours: Vec<String>,
    horizon: Horizon,
}

const LOOK: &str = "select (extract(epoch from clock_timestamp()) * 1e6)::int8, pg_current_wal_insert_lsn()::text";

impl<'a> Pen<'a> {
    fn new(client: Client, state: SyncState, records: &'a mut HashMap<String, i64>) -> Self {
        let (written, since, last) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { client, state, records, written, since, last, ours: Vec::new(), horizon: Horizon::default() }
    }

    async fn look(&mut self, keeper: &mut Keeper) -> Result<(), Fault> {
        let row = self.client.query_one(LOOK, &[]).await.map_err(|error| pg::client::fault(&error))?;
        let now = Timestamp::from_microsecond(row.get(0)).map_err(|error| Fault::retry(error.to_string()))?;
        let end: Lsn = row.get::<_, String>(1).parse().map_err(|cause: String| Fault::retry(cause))?;
        let status = keeper.status.borrow_and_update().clone();
        let jobs = keeper.jobs.borrow_and_update().clone();
        self.horizon.look(now, end, status.held.map(|held| held.lsn()));
        self.watch(&status, now);
        let rows = self.rows(&status, &jobs, now, keeper.within);
        keeper.shown.send_replace(self.shown(&status, &rows));
        self.own(&rows).await?;
        let due = self.due(rows);
        if !due.is_empty() {
            self.state.write(&self.client, &due).await?;
            let now = Instant::now();
            // A row that is new had nothing before; a later connection must not take our own count for that.
            due.iter().for_each(|row| _ = self.records.entry(row.name.clone()).or_insert(0));
            self.written.extend(due.into_iter().map(|row| (row.name.clone(), (row, now))));
        }
        Ok(())
    }

    /// Notes since when each table streams. What its copy brought last may not be on the target's disk yet: only what
    /// is found to be there from now on counts.
    fn watch(&mut self, status: &Status, now: Timestamp) {
        let running = matches!(status.state, State::Copying | State::Streaming);
        for table in &status.tables {
            match running && table.state == TableState::Streaming {
                true => _ = self.since.entry(table.name.clone()).or_insert(now),
                false => _ = self.since.remove(&table.name),
            }
        }
    }

    fn rows(&self, status: &Status, jobs: &Jobs, now: Timestamp, within: Duration) -> Vec<Row> {
        let at_work = jobs.running.as_ref().and_then(|job| job.table.as_deref());
        let row = |table: &crate::status::TableStatus| {
            let since = self.since.get(&table.name).copied();
            let synced_at = self.horizon.reached.filter(|&at| since.is_some_and(|since| at >= since));
            let route = &status.state;
            let facts = Facts { route, synced_at, now, within, at_work, different: &jobs.different };
            let refused = status.parked.iter().find(|parked| parked.name() == table.name).map(|parked| parked.rows);
            let state = match refused {
                Some(rows) => &TableState::Parked { cause: format!("{rows} rows are parked: see `lockstep parked`") },
                None => &table.state,
            };
            let Standing { status, error, synced_at } = standing(&table.name, state, &facts);
            let name = self.state.name_of(&TableName::parse(&table.name));
            let before = self.records.get(&name).copied().unwrap_or(0);
            Row { records: before.saturating_add_unsigned(table.rows), name, status, error, synced_at }
        };
        status.tables.iter().map(row).collect()
    }

    /// The same by the names that everybody else uses.
    fn shown(&mut self, status: &Status, rows: &[Row]) -> Synced {
        let tables = status.tables.iter().zip(rows).map(|(table, row)| {
            let last = self.last.entry(table.name.clone()).or_default();
            *last = row.synced_at.or(*last);
            let (status, error, records) = (row.status, row.error.clone(), row.records);
            (table.name.clone(), SyncedTable { status, error, records, synced_at: *last })
        });
        let tables = tables.collect();
        Synced { reached: self.horizon.reached, tables }
    }

    /// A row of a table that is not replicated (any more) says so, whatever an earlier system wrote there.
    async fn own(&mut self, rows: &[Row]) -> Result<(), Fault> {
        let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
        if names.is_empty() || names == self.ours {
            return Ok(());
        }
        self.state.disown(&self.client, &names, "pending", Some("not replicated by Lockstep")).await?;
        self.written.retain(|name, _| names.contains(name));
        self.ours = names;
        Ok(())
    }

    /// The rows that must be written now.
    fn due(&self, rows: Vec<Row>) -> Vec<Row> {
        let mut refreshed = 0;
        let due = |row: &Row| {
            let Some((was, at)) = self.written.get(&row.name) else { return true };
            if was.status != row.status || was.error != row.error {
                return true;
            }
            let wait = if was.records == row.records && was.synced_at == row.synced_at { AGAIN } else { REFRESH };
            let due = at.elapsed() >= wait && refreshed < REFRESHED;
            refreshed += usize::from(due);
            due
        };
        rows.into_iter().filter(due).collect()
    }

    /// Nobody looks after the tables from now on.
    async fn farewell(&mut self) -> Result<(), Fault> {
        self.state.disown(&self.client, &[], "pending", Some("Lockstep is not running")).await.map(drop)
    }
}

/// Until which time everything is known to be in the target.
///
/// Two looks make it: what had committed by the first one's clock lies before the second one's place in the WAL, since
/// a commit takes its time a moment before it takes its place. Once the target holds all up to that place, it holds all
/// up to that time.
#[derive(Debug, Default)]
struct Horizon {
    clocks: VecDeque<Timestamp>,
    places: VecDeque<(Timestamp, Lsn)>,
    reached: Option<Timestamp>,
}

/// Far more than a commit needs between its time and its place.
const APART: Duration = Duration::from_millis(400);
/// While the target is far behind, old places will do.
const PLACES: usize = 64;

impl Horizon {
    fn look(&mut self, now: Timestamp, end: Lsn, held: Option<Lsn>) {
        if self.clocks.back().is_some_and(|&last| last > now) {
            (self.clocks, self.places) = Default::default(); // the clock was set back
        }
        let mut before = None;
        while self
            .clocks
            .front()
            .is_some_and(|&at| Duration::try_from(now.duration_since(at)).unwrap_or_default() >= APART)
        {
            before = self.clocks.pop_front();
        }
        self.clocks.push_back(now);
        // What is held was said after the looks that came before this one.
        while let Some(&(clock, place)) =
            self.places.front().filter(|(_, place)| held.is_some_and(|held| held >= *place))
        {
            let _ = place;
            self.reached = Some(clock);
            self.places.pop_front();
        }
        if let Some(clock) = before
            && self.places.len() < PLACES
        {
            self.places.push_back((clock, end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    #[test]
    fn a_time_is_reached_when_the_target_holds_a_place_that_was_seen_later() {
        let mut horizon = Horizon::default();
        horizon.look(at(0), Lsn(100), Some(Lsn(100)));
        assert_eq!(horizon.reached, None, "one look says nothing");
        horizon.look(at(100), Lsn(110), Some(Lsn(110)));
        horizon.look(at(500), Lsn(120), Some(Lsn(110)));
        assert_eq!(horizon.reached, None);
        horizon.look(at(600), Lsn(150), Some(Lsn(119)));
        assert_eq!(horizon.reached, None, "the place is 120");
        horizon.look(at(700), Lsn(160), Some(Lsn(120)));
        assert_eq!(horizon.reached, Some(at(100)), "what had committed at 100 ms lies before 120");
        horizon.look(at(800), Lsn(170), None);
        assert_eq!(horizon.reached, Some(at(100)), "what was true stays true");
    }

    #[test]
    fn while_the_target_is_far_behind_places_do_not_pile_up() {
        let mut horizon = Horizon::default();
        (0..10_000).for_each(|n| horizon.look(at(n * 500), Lsn(1000 + n as u64), Some(Lsn(0))));
        assert!(horizon.places.len() <= PLACES && horizon.clocks.len() < 10);
    }
}
