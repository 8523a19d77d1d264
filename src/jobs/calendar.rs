//! When which tables are due. Pure: it is told what time it is.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::scheduler::{self, Timetable};

/// Tables with a timetable in common.
#[derive(Clone, Debug)]
pub struct Entry {
    /// `None`: all that have none of their own.
    pub tables: Option<Vec<String>>,
    pub timetable: Timetable,
    /// The expressions, for the history.
    pub label: String,
}

impl Entry {
    /// As the history gives the reason of its runs. A service that starts finds its last run by it.
    fn why(&self) -> String {
        format!("schedule {}", self.label)
    }

    /// Whether it is about this table, where `others` are the entries beside it.
    fn takes(&self, table: &str, all: &[Planned]) -> bool {
        let named = |entry: &Self| entry.tables.as_ref().is_some_and(|tables| tables.iter().any(|name| name == table));
        match self.tables {
            Some(_) => named(self),
            None => !all.iter().any(|other| named(&other.entry)),
        }
    }
}

struct Planned {
    entry: Entry,
    due: Option<Timestamp>,
    /// It was due at this time, and nobody was there.
    missed: Option<Timestamp>,
}

pub struct Calendar {
    all: Vec<Planned>,
    jitter: Duration,
}

/// A run that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub why: String,
    pub tables: Vec<String>,
}

impl Calendar {
    /// From `now` on. `past` says when each reason's last run began; with it, one that was missed since is due at once,
    /// and only once, however many were missed.
    pub fn new(entries: Vec<Entry>, jitter: Duration, past: &BTreeMap<String, Timestamp>, now: Timestamp) -> Self {
        let plan = |entry: Entry| {
            let missed = past.get(&entry.why()).and_then(|&last| entry.timetable.missed(last, now));
            let due = match missed {
                Some(_) => Some(now),
                None => entry.timetable.next(now),
            };
            Planned { due: due.map(|at| late(at, jitter)), missed, entry }
        };
        Self { all: entries.into_iter().map(plan).collect(), jitter }
    }

    /// When to look again.
    pub fn next(&self) -> Option<Timestamp> {
        self.all.iter().filter_map(|planned| planned.due).min()
    }

    /// When a table's next run is due.
    pub fn next_of(&self, table: &str) -> Option<Timestamp> {
        let of = self.all.iter().filter(|planned| planned.entry.takes(table, &self.all));
        of.filter_map(|planned| planned.due).min()
    }

    /// The longest pause between two of the next runs, over the entries together: within it a run should have ended.
    pub fn interval(&self, now: Timestamp) -> Option<Duration> {
        let next = |after: Timestamp| self.all.iter().filter_map(|planned| planned.entry.timetable.next(after)).min();
        let first = next(now)?;
        // A pause over night or over a weekend is seen in a day of hourly runs, or in a week of daily ones.
        let pauses = (0..48).scan(first, |before, _| {
            let pause = next(*before)?.duration_since(*before);
            *before = before.checked_add(pause).ok()?;
            Duration::try_from(pause).ok()
        });
        pauses.max()
    }

    /// What is due by now, of the tables that can be looked at.
    pub fn take(&mut self, now: Timestamp, tables: &[String]) -> Vec<Due> {
        let mut due = Vec::new();
        for at in 0..self.all.len() {
            let planned = &self.all[at];
            if planned.due.is_none_or(|due| due > now) {
                continue;
            }
            let missed = planned.missed.map(|at| format!(", missed at {at:.0}")).unwrap_or_default();
            let why = planned.entry.why() + &missed;
            let tables: Vec<String> =
                tables.iter().filter(|table| planned.entry.takes(table, &self.all)).cloned().collect();
            if !tables.is_empty() {
                due.push(Due { why, tables });
            }
            let next = planned.entry.timetable.next(now).map(|at| late(at, self.jitter));
            let planned = &mut self.all[at];
            (planned.due, planned.missed) = (next, None);
        }
        due
    }
}

fn late(at: Timestamp, jitter: Duration) -> Timestamp {
    at.checked_add(scheduler::jitter(jitter)).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn entry(tables: Option<&[&str]>, expressions: &[&str]) -> Entry {
        let expressions: Vec<String> = expressions.iter().map(|text| (*text).to_owned()).collect();
        Entry {
            tables: tables.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
            timetable: Timetable::parse(&expressions, "UTC").unwrap(),
            label: expressions.join(" | "),
        }
    }

    fn calendar(entries: Vec<Entry>, past: &[(&str, &str)], now: &str) -> Calendar {
        let past = past.iter().map(|(why, when)| ((*why).to_owned(), at(when))).collect();
        Calendar::new(entries, Duration::ZERO, &past, at(now))
    }

    const TABLES: [&str; 3] = ["public.a", "public.b", "public.c"];

    fn take(calendar: &mut Calendar, now: &str) -> Vec<(String, Vec<String>)> {
        let tables = TABLES.map(str::to_owned);
        calendar.take(at(now), &tables).into_iter().map(|due| (due.why, due.tables)).collect()
    }

    #[test]
    fn a_table_with_a_timetable_of_its_own_is_left_out_of_the_common_one() {
        let entries = vec![
            entry(None, &["0 * * * *"]),
            entry(Some(&["public.b"]), &["30 3 * * *"]),
            entry(Some(&["public.c"]), &[]),
        ];
        let mut calendar = calendar(entries, &[], "2026-11-23T03:10:00Z");
        assert_eq!(calendar.next(), Some(at("2026-11-23T03:30:00Z")));
        let each = TABLES.map(|table| calendar.next_of(table));
        assert_eq!(each, [Some(at("2026-11-23T04:00:00Z")), Some(at("2026-11-23T03:30:00Z")), None]);
        assert_eq!(take(&mut calendar, "2026-11-23T03:29:59Z"), []);
        assert_eq!(
            take(&mut calendar, "2026-11-23T03:30:00Z"),
            [("schedule 30 3 * * *".into(), vec!["public.b".into()])]
        );
        assert_eq!(
            take(&mut calendar, "2026-11-23T04:00:01Z"),
            [("schedule 0 * * * *".into(), vec!["public.a".into()])]
        );
        assert_eq!(calendar.next(), Some(at("2026-11-23T05:00:00Z")));
    }

    #[test]
    fn a_run_that_was_missed_while_the_service_was_down_is_made_up_for_once() {
        let last = [("schedule 0 2 * * *", "2026-11-20T02:00:07Z")];
        let mut late = calendar(vec![entry(None, &["0 2 * * *"])], &last, "2026-11-23T12:00:00Z");
        let made = take(&mut late, "2026-11-23T12:00:00Z");
        assert_eq!(made[0].0, "schedule 0 2 * * *, missed at 2026-11-23T02:00:00Z");
        assert_eq!(take(&mut late, "2026-11-23T12:00:01Z"), [], "three were missed, and one is made");
        assert_eq!(late.next(), Some(at("2026-11-24T02:00:00Z")));
        let in_time = [("schedule 0 2 * * *", "2026-11-23T02:00:07Z")];
        let calendar = calendar(vec![entry(None, &["0 2 * * *"])], &in_time, "2026-11-23T12:00:00Z");
        assert_eq!(calendar.next(), Some(at("2026-11-24T02:00:00Z")));
    }

    #[test]
    fn the_interval_is_the_longest_pause_of_the_runs_to_come() {
        let interval = |expressions: &[&str]| {
            let calendar = calendar(vec![entry(None, expressions)], &[], "2026-11-23T12:10:00Z");
            calendar.interval(at("2026-11-23T12:10:00Z")).map(|pause| pause.as_secs() / 3600)
        };
        assert_eq!(interval(&["0 * * * *", "0 2 * * *"]), Some(1));
        assert_eq!(interval(&["0 2 * * *"]), Some(24));
        assert_eq!(interval(&["0 8-18 * * *"]), Some(14), "a night");
        assert_eq!(interval(&["0 2 * * 1-5"]), Some(72), "a weekend");
        assert_eq!(interval(&[]), None);
    }

    #[test]
    fn jitter_comes_on_top() {
        let entries = vec![entry(None, &["0 2 * * *"])];
        let jitter = Duration::from_secs(600);
        let next = |_| Calendar::new(entries.clone(), jitter, &BTreeMap::new(), at("2026-11-23T12:00:00Z")).next();
        let all: Vec<Timestamp> = (0..20).filter_map(next).collect();
        assert!(all.iter().all(|&next| next >= at("2026-11-24T02:00:00Z") && next < at("2026-11-24T02:10:00Z")));
        assert!(all.iter().min() != all.iter().max());
    }
}
