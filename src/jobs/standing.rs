//! What may be said of one table. Pure, and the place where the promise of `completed` is kept.
//!
//! `completed`, with `last_sync_at = T`, says: the table streams, nothing is known or being found out to differ, and
//! everything that was committed at the source before T is in the target, on its disk. T is at most a stated time ago
//! when it is written. So the row stays true even if it is read later: T does not move by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::status::{State, TableState};

/// All that counts beside the table's own state.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub route: &'a State,
    /// Everything that was committed before is in the target, by the source's clock.
    pub synced_at: Option<Timestamp>,
    /// The source's clock.
    pub now: Timestamp,
    /// How long ago `synced_at` may be for a table to be in step.
    pub within: Duration,
    /// The table that a run is at work on.
    pub at_work: Option<&'a str>,
    /// Tables that are known to differ, and in how many rows.
    pub different: &'a BTreeMap<String, u64>,
}

/// What the row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub status: &'static str,
    pub error: Option<String>,
    pub synced_at: Option<Timestamp>,
}

pub fn standing(table: &str, state: &TableState, facts: &Facts<'_>) -> Standing {
    match state {
        TableState::Parked { cause } => say("failed", Some(cause.clone())),
        TableState::Paused => say("pending", Some("paused".into())),
        TableState::Pending | TableState::Copying { .. } | TableState::Streaming => match facts.route {
            State::Stopped { cause, .. } => say("failed", Some(cause.clone())),
            State::Draining => say("pending", None),
            State::NotConfigured { .. } => say("pending", Some("not configured".into())),
            State::Waiting { cause } => say("in_progress", Some(cause.clone())),
            State::Starting => say("in_progress", None),
            State::Copying | State::Streaming => running(table, state, facts),
        },
    }
}

fn running(table: &str, state: &TableState, facts: &Facts<'_>) -> Standing {
    if facts.at_work == Some(table) {
        return say("in_progress", None);
    }
    if let Some(rows) = facts.different.get(table) {
        let rows = match rows {
            0 => return say("in_progress", Some("copied over what was there, and not compared yet".into())),
            1 => "1 row differs".into(),
            rows => format!("{rows} rows differ"),
        };
        return say("in_progress", Some(format!("{rows} until a run repairs them")));
    }
    match state {
        TableState::Pending => say("pending", None),
        TableState::Streaming => match facts.synced_at.filter(|&at| recent(at, facts)) {
            Some(at) => Standing { status: "completed", error: None, synced_at: Some(at) },
            None => Standing { status: "in_progress", error: None, synced_at: facts.synced_at },
        },
        _ => say("in_progress", None),
    }
}

fn recent(at: Timestamp, facts: &Facts<'_>) -> bool {
    Duration::try_from(facts.now.duration_since(at)).is_ok_and(|age| age <= facts.within)
}

fn say(status: &'static str, error: Option<String>) -> Standing {
    Standing { status, error, synced_at: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn completed_is_said_of_a_table_only_when_all_of_it_is_so() {
        let none = BTreeMap::new();
        let good = Facts {
            route: &State::Streaming,
            synced_at: Some(at(100)),
            now: at(101),
            within: Duration::from_secs(10),
            at_work: None,
            different: &none,
        };
        let of = |state: &TableState, facts: &Facts<'_>| standing("public.t", state, facts).status;
        let streaming = TableState::Streaming;
        assert_eq!(of(&streaming, &good), "completed");
        assert_eq!(standing("public.t", &streaming, &good).synced_at, Some(at(100)));
        assert_eq!(of(&streaming, &Facts { route: &State::Copying, ..good.clone() }), "completed", "others are copied");

        let stopped = State::Stopped { cause: "c".into(), fix: "f".into() };
        let waiting = State::Waiting { cause: "c".into() };
        let different = BTreeMap::from([("public.t".to_owned(), 3)]);
        for (facts, expected) in [
            (Facts { synced_at: None, ..good.clone() }, "in_progress"),
            (Facts { now: at(111), ..good.clone() }, "in_progress"),
            (Facts { at_work: Some("public.t"), ..good.clone() }, "in_progress"),
            (Facts { different: &different, ..good.clone() }, "in_progress"),
            (Facts { route: &State::Starting, ..good.clone() }, "in_progress"),
            (Facts { route: &waiting, ..good.clone() }, "in_progress"),
            (Facts { route: &stopped, ..good.clone() }, "failed"),
            (Facts { route: &State::Draining, ..good.clone() }, "pending"),
        ] {
            assert_eq!(of(&streaming, &facts), expected, "{facts:?}");
            let paused = of(&TableState::Paused, &facts);
            let parked = of(&TableState::Parked { cause: "c".into() }, &facts);
            assert_eq!((paused, parked), ("pending", "failed"), "{facts:?}");
        }
        for (state, expected) in
            [(TableState::Pending, "pending"), (TableState::Copying { copied: 9, estimated: 9 }, "in_progress")]
        {
            assert_eq!(of(&state, &good), expected);
        }
        let said = standing("public.t", &streaming, &Facts { different: &different, ..good.clone() });
        assert_eq!(said.error.unwrap(), "3 rows differ until a run repairs them");
        assert_eq!(of(&streaming, &Facts { at_work: Some("public.u"), ..good }), "completed", "another is at work");
    }
}
