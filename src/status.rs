//! What is going on, as one value: the supervisor publishes it through a `watch`, the page and the CLI show it.
//! Whether both sides are in step is decided here once, so that page, probe and CLI never disagree.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::types::{self, ParkedRows, Position, Progress, TableReport};

/// A status this old says nothing any more: whoever publishes it does so every few seconds, or is stuck.
const STALE: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub route: String,
    pub started_at: Timestamp,
    /// When the supervisor last looked; it publishes at least every five seconds.
    pub updated_at: Timestamp,
    #[serde(flatten)]
    pub state: State,
    pub source: End,
    pub target: End,
    /// How rows are written: `rpc` or `tables`. Not known before both sides were looked at.
    #[serde(default)]
    pub way: Option<String>,
    /// How changes are read: `wal` or `journal`. Not known before the source was looked at.
    #[serde(default)]
    pub capture: Option<String>,
    /// The target holds everything up to here.
    #[serde(with = "position")]
    pub checkpoint: Option<Position>,
    /// The source has sent everything up to here.
    #[serde(with = "position")]
    pub received: Option<Position>,
    /// Everything up to here in the source's WAL is in the target, on its disk, or was nothing for it.
    #[serde(with = "position", default)]
    pub held: Option<Position>,
    pub lag: Lag,
    /// Over the last few seconds.
    pub rows_per_second: f64,
    pub last_error: Option<LastError>,
    pub tables: Vec<TableStatus>,
    /// Rows that the target refused, by table.
    #[serde(default)]
    pub parked: Vec<ParkedRows>,
}

/// What the route is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    Starting,
    /// Settings are missing; the window takes them.
    NotConfigured {
        /// Their names, as in `.env`.
        missing: Vec<String>,
    },
    /// The rows that exist already are on their way.
    Copying,
    Streaming,
    /// It will pass: tried again by itself.
    Waiting {
        cause: String,
    },
    /// Somebody must do `fix` first; looked at again every minute.
    Stopped {
        cause: String,
        fix: String,
    },
    /// Finishing what is in flight before the process ends.
    Draining,
}

/// One end of the route. `since` is when it became what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Where it is, without user or password.
    pub address: String,
    pub connected: bool,
    pub since: Option<Timestamp>,
}

impl End {
    /// Notes whether the end is connected; the clock starts again only when that changes.
    pub fn set(&mut self, connected: bool, now: Timestamp) {
        if self.connected != connected || self.since.is_none() {
            *self = Self { connected, since: Some(now), address: std::mem::take(&mut self.address) };
        }
    }
}

/// How far the target is behind. `None` while it is not known; nobody may show that as zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lag {
    /// From the commit at the source to the checkpoint that covers it.
    pub seconds: Option<f64>,
    pub bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    pub at: Timestamp,
    pub cause: String,
    pub fix: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableStatus {
    pub name: String,
    #[serde(flatten)]
    pub state: TableState,
    /// Rows written since the service started, copied ones included.
    pub rows: u64,
    pub changed_at: Option<Timestamp>,
}

/// Where one table stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TableState {
    Pending,
    Copying {
        /// Rows the target holds already.
        copied: u64,
        /// The planner's guess of how many there are; 0 when it has none.
        estimated: u64,
    },
    Streaming,
    /// Refused and set aside with its reason, while the others go on.
    Parked {
        cause: String,
    },
    /// Set aside because somebody asked for it.
    Paused,
}

/// What can happen to a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableEvent {
    CopyStarted {
        estimated: u64,
    },
    /// This many rows more have arrived.
    Copied {
        rows: u64,
    },
    CopyFinished,
    /// An earlier run finished its copy: the checkpoint says so.
    Resumed,
    Refused {
        cause: String,
    },
    Pause,
    /// What was parked or paused takes part again.
    Release,
}

impl TableState {
    /// The state after an event, or `None` where the event has no meaning.
    pub fn after(&self, event: TableEvent) -> Option<Self> {
        use TableEvent as E;
        use TableState as S;
        match (self, event) {
            (S::Pending, E::CopyStarted { estimated }) => Some(S::Copying { copied: 0, estimated }),
            (S::Pending, E::Resumed) => Some(S::Streaming),
            (S::Copying { copied, estimated }, E::Copied { rows }) => {
                Some(S::Copying { copied: copied + rows, estimated: *estimated })
            }
            (S::Copying { .. }, E::CopyFinished) => Some(S::Streaming),
            (S::Pending | S::Copying { .. } | S::Streaming | S::Paused, E::Refused { cause }) => {
                Some(S::Parked { cause })
            }
            (S::Pending | S::Copying { .. } | S::Streaming, E::Pause) => Some(S::Paused),
            // It missed changes meanwhile: it is compared and repaired before it streams again.
            (S::Parked { .. } | S::Paused, E::Release) => Some(S::Pending),
            _ => None,
        }
    }

    /// One word, for a label of a metric or a column of a table.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Copying { .. } => "copying",
            Self::Streaming => "streaming",
            Self::Parked { .. } => "parked",
            Self::Paused => "paused",
        }
    }
}

/// The answer to the one question: are both sides in step?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", content = "why", rename_all = "snake_case")]
pub enum Verdict {
    /// Both ends connected, every table streaming, the lag known and within its bound.
    InStep,
    /// Not yet, and it is getting there by itself.
    Behind(String),
    /// Not, and it needs somebody, or the other side, to come back.
    Broken(String),
    /// Nothing recent is known.
    Unknown(String),
}

/// What the runs of comparison and repair are doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Jobs {
    pub running: Option<RunningJob>,
    /// Jobs that wait for it.
    pub queued: usize,
    /// When the schedule begins the next one.
    pub next_at: Option<Timestamp>,
    /// When a run last ended with both sides equal.
    pub last_success_at: Option<Timestamp>,
    /// Tables whose last comparison found differences that nobody has repaired since, and how many. 0: the table was
    /// copied over what the target held, and what only the target has may still be there.
    pub different: BTreeMap<String, u64>,
    /// Of each table that was ever compared, the last time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verified: BTreeMap<String, Verified>,
}

impl Jobs {
    /// What a comparison came to.
    pub fn reported(&mut self, report: &TableReport) {
        let name = report.table.to_string();
        self.verified.insert(name.clone(), Verified { at: Timestamp::now(), result: report.result().into() });
        match &report.verdict {
            types::Verdict::Equal => _ = self.different.remove(&name),
            types::Verdict::Different => {
                _ = self.different.insert(name, report.differences().saturating_sub(report.repaired()).max(1));
            }
            types::Verdict::Unknown { .. } => {}
        }
    }
}

/// What is known to be in the target, table by table: what the table of sync states says.
#[derive(Clone, Debug, Default)]
pub struct Synced {
    /// Everything that was committed before is in the target. It moves all the time.
    pub reached: Option<Timestamp>,
    pub tables: BTreeMap<String, SyncedTable>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncedTable {
    /// `completed` and the others.
    pub status: &'static str,
    pub error: Option<String>,
    /// Rows that were ever synced, by this process and those before.
    pub records: i64,
    /// Of a table that is not in step: until when it was.
    pub synced_at: Option<Timestamp>,
}

/// The last comparison of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    pub at: Timestamp,
    /// As the history has it: `equal`, `repaired`, `different`, `unknown`.
    pub result: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningJob {
    pub id: String,
    pub why: String,
    pub repair: bool,
    pub started_at: Timestamp,
    /// The table at work.
    pub table: Option<String>,
    pub progress: Option<Progress>,
    pub tables_done: usize,
    pub tables: usize,
}

/// A status together with its verdict: what `/api/status` answers and the page shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The service's clock, so that ages are right on a screen whose clock is not.
    pub now: Timestamp,
    #[serde(flatten)]
    pub status: Status,
    #[serde(default)]
    pub jobs: Jobs,
}

impl View {
    pub fn new(status: Status, now: Timestamp, within: Duration) -> Self {
        Self { verdict: status.verdict(now, within), now, status, jobs: Jobs::default() }
    }

    /// Adds what comparisons know. Tables that are known to differ are not in step, however well everything flows.
    pub fn with(mut self, jobs: Jobs) -> Self {
        if self.verdict == Verdict::InStep
            && let Some((first, rows)) = jobs.different.first_key_value()
        {
            let rows = if *rows == 1 { "1 row".into() } else { format!("{rows} rows") };
            let more = match jobs.different.len() {
                1 => String::new(),
                many => format!(" and {} more tables", many - 1),
            };
            self.verdict = Verdict::Broken(format!("{rows} of {first}{more} differ until a run repairs them"));
        }
        self.jobs = jobs;
        self
    }
}

impl Status {
    /// The status of a route that has just begun.
    pub fn starting(route: impl Into<String>, source: impl Into<String>, target: impl Into<String>) -> Self {
        let now = Timestamp::now();
        let end = |address: String| End { address, ..End::default() };
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            route: route.into(),
            started_at: now,
            updated_at: now,
            state: State::Starting,
            source: end(source.into()),
            target: end(target.into()),
            way: None,
            capture: None,
            checkpoint: None,
            received: None,
            held: None,
            lag: Lag::default(),
            rows_per_second: 0.0,
            last_error: None,
            tables: Vec::new(),
            parked: Vec::new(),
        }
    }

    /// Judges the status at `now`: in step only when all of it is known to be.
    pub fn verdict(&self, now: Timestamp, within: Duration) -> Verdict {
        match (self.stream(now, within), self.set_aside()) {
            (Verdict::InStep | Verdict::Behind(_), Some(parked)) if self.state != State::Starting => {
                Verdict::Broken(parked)
            }
            (verdict, _) => verdict,
        }
    }

    /// The same for all that takes part: whether the service does its work. What is parked waits for a person, and that
    /// person needs the service.
    pub fn stream(&self, now: Timestamp, within: Duration) -> Verdict {
        let age = Duration::try_from(now.duration_since(self.updated_at)).unwrap_or_default();
        if age > STALE {
            return Verdict::Unknown(format!("nothing was heard from the replicator for {} s", age.as_secs()));
        }
        match &self.state {
            State::Stopped { cause, .. } => return Verdict::Broken(cause.clone()),
            State::Waiting { cause } => return Verdict::Broken(cause.clone()),
            State::NotConfigured { missing } => {
                return Verdict::Broken(format!("not configured: {} is not set", missing.join(" and ")));
            }
            State::Draining => return Verdict::Unknown("the service is stopping".into()),
            State::Starting => return Verdict::Behind("starting".into()),
            State::Copying | State::Streaming => {}
        }
        for (side, end) in [("source", &self.source), ("target", &self.target)] {
            if !end.connected {
                return Verdict::Broken(format!("the {side} is not connected"));
            }
        }
        let waiting = |state: &TableState| matches!(state, TableState::Pending | TableState::Copying { .. });
        let to_come = self.tables.iter().filter(|table| waiting(&table.state)).count();
        if self.state == State::Copying || to_come > 0 {
            return Verdict::Behind(format!("first copy: {to_come} of {} tables to come", self.tables.len()));
        }
        match self.lag.seconds {
            None => Verdict::Unknown("the lag is not known yet".into()),
            Some(seconds) if seconds <= within.as_secs_f64() => Verdict::InStep,
            Some(seconds) => Verdict::Behind(format!("{seconds:.0} s behind")),
        }
    }

    /// What is parked, in words.
    fn set_aside(&self) -> Option<String> {
        let parked: Vec<&str> = self
            .tables
            .iter()
            .filter(|table| matches!(table.state, TableState::Parked { .. }))
            .map(|table| table.name.as_str())
            .collect();
        if let [first, ..] = parked[..] {
            return Some(match parked.len() {
                1 => format!("{first} is parked"),
                more => format!("{first} and {} more are parked", more - 1),
            });
        }
        if let [first, ..] = &self.parked[..] {
            let rows: u64 = self.parked.iter().map(|table| table.rows).sum();
            return Some(match (rows, self.parked.len()) {
                (1, _) => format!("1 row of {} is parked", first.name()),
                (rows, 1) => format!("{rows} rows of {} are parked", first.name()),
                (rows, tables) => format!("{rows} rows of {tables} tables are parked"),
            });
        }
        None
    }
}

/// Positions as the text that people know: `16/B374D848`, or `16/B374D848+1000` within an oversize transaction.
mod position {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::types::{Lsn, Position};

    pub(super) fn serialize<S: Serializer>(position: &Option<Position>, to: S) -> Result<S::Ok, S::Error> {
        match position {
            Some(position) => to.collect_str(position),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Position>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let (lsn, minor) = text.split_once('+').unwrap_or((&text, "0"));
        let Lsn(major) = lsn.parse().map_err(D::Error::custom)?;
        Ok(Some(Position { major, minor: minor.parse().map_err(D::Error::custom)? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    fn streaming() -> Status {
        let mut status = Status::starting("to_supabase", "db:5432/shop", "https://abc.supabase.co");
        let now = status.updated_at;
        status.state = State::Streaming;
        status.source.set(true, now);
        status.target.set(true, now);
        status.checkpoint = Some(Position { major: 0x16_B374_D848, minor: 3 });
        status.lag = Lag { seconds: Some(0.002), bytes: Some(0) };
        let table = |name: &str| TableStatus {
            name: name.into(),
            state: TableState::Streaming,
            rows: 24,
            changed_at: Some(now),
        };
        status.tables = vec![table("public.agents"), table("public.tasks")];
        status
    }

    #[test]
    fn both_sides_are_in_step_only_when_all_of_it_is_known() {
        let good = streaming();
        let now = good.updated_at;
        assert_eq!(good.verdict(now, WITHIN), Verdict::InStep);
        type Damage = fn(&mut Status);
        type Expected = fn(&Verdict) -> bool;
        let spoilt: [(Damage, Expected); 10] = [
            (|s| s.lag.seconds = None, |v| matches!(v, Verdict::Unknown(_))),
            (|s| s.lag.seconds = Some(11.0), |v| matches!(v, Verdict::Behind(_))),
            (|s| s.source.connected = false, |v| matches!(v, Verdict::Broken(_))),
            (|s| s.target.connected = false, |v| matches!(v, Verdict::Broken(_))),
            (|s| s.state = State::Starting, |v| matches!(v, Verdict::Behind(_))),
            (|s| s.state = State::Copying, |v| matches!(v, Verdict::Behind(_))),
            (|s| s.state = State::Waiting { cause: "no route".into() }, |v| matches!(v, Verdict::Broken(_))),
            (|s| s.tables[0].state = TableState::Pending, |v| matches!(v, Verdict::Behind(_))),
            (|s| s.tables[0].state = TableState::Parked { cause: "23505".into() }, |v| matches!(v, Verdict::Broken(_))),
            (|s| s.updated_at -= Duration::from_secs(16), |v| matches!(v, Verdict::Unknown(_))),
        ];
        for (index, (damage, expected)) in spoilt.iter().enumerate() {
            let mut status = streaming();
            damage(&mut status);
            let verdict = status.verdict(now, WITHIN);
            assert!(expected(&verdict), "damage {index} gave {verdict:?}");
        }
    }

    #[test]
    fn tables_that_are_known_to_differ_are_not_in_step() {
        let good = streaming();
        let now = good.updated_at;
        let mut jobs = Jobs::default();
        let view = |jobs: &Jobs| View::new(good.clone(), now, WITHIN).with(jobs.clone());
        assert_eq!(view(&jobs).verdict, Verdict::InStep);
        jobs.different.insert("public.agents".into(), 2);
        let Verdict::Broken(why) = view(&jobs).verdict else { panic!("in step, though rows differ") };
        assert_eq!(why, "2 rows of public.agents differ until a run repairs them");
    }

    #[test]
    fn a_status_reads_back_from_json_as_it_was_written() {
        let mut status = streaming();
        status.tables[1].state = TableState::Copying { copied: 5, estimated: 9 };
        for state in [State::Streaming, State::Stopped { cause: "no slot".into(), fix: "select 1".into() }] {
            status.state = state;
            let json = serde_json::to_string(&status).unwrap();
            assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status, "{json}");
        }
    }

    #[test]
    fn a_table_moves_only_where_the_move_has_a_meaning() {
        use TableEvent as E;
        use TableState as S;
        let copying = S::Pending.after(E::CopyStarted { estimated: 10 }).unwrap();
        let copying = copying.after(E::Copied { rows: 4 }).unwrap();
        assert_eq!(copying, S::Copying { copied: 4, estimated: 10 });
        assert_eq!(copying.after(E::CopyFinished), Some(S::Streaming));
        assert_eq!(S::Pending.after(E::Resumed), Some(S::Streaming));
        let parked = S::Streaming.after(E::Refused { cause: "x".into() }).unwrap();
        assert_eq!(parked.after(E::Release), Some(S::Pending));
        assert_eq!(S::Streaming.after(E::Pause).unwrap().after(E::Release), Some(S::Pending));
        assert_eq!(S::Streaming.after(E::CopyFinished), None);
        assert_eq!(S::Pending.after(E::Copied { rows: 1 }), None);
        assert_eq!(parked.after(E::Resumed), None, "a parked table would lose the changes it missed");
    }

    #[test]
    fn since_tells_when_an_end_became_what_it_is() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut end = End::default();
        end.set(true, at(1));
        end.set(true, at(2));
        assert_eq!(end.since, Some(at(1)));
        end.set(false, at(3));
        assert_eq!((end.connected, end.since), (false, Some(at(3))));
    }
}
