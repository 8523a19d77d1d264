//! How late the target is, in seconds. What is compared are stamps of the source's clock, carried on by a clock that
//! only counts: neither a wrong clock on this host nor one that is set makes a lag, or hides one.

use std::time::{Duration, Instant};

use crate::types::Position;

/// Every status that goes to the source asks for a word, each ten seconds at least. Without one for so long, nobody
/// knows what was committed since.
const SILENT: Duration = Duration::from_secs(30);

#[derive(Default)]
pub struct Lateness {
    /// When the oldest change in flight was committed, by the source's clock, in microseconds.
    oldest: Option<i64>,
    /// Since when something read is not in the target, and how long its way is known to be.
    behind: Option<Behind>,
    /// The source's newest word, and when it was heard.
    word: Option<(i64, Instant)>,
    /// From the commit to the checkpoint, for what settled last.
    last: f64,
}

#[derive(Clone, Copy)]
struct Behind {
    since: Instant,
    at: Position,
}

impl Lateness {
    pub fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// A batch leaves; it may be one of several for a large transaction.
    pub fn begun(&mut self, committed_at: i64) {
        self.oldest = Some(self.oldest.map_or(committed_at, |oldest| oldest.min(committed_at)));
    }

    /// The target holds what was in flight. Says how long that took, where `now` is the source's clock.
    pub fn settled(&mut self, committed_at: i64, now: i64) -> f64 {
        self.oldest = None;
        self.last = seconds(now - committed_at);
        self.last
    }

    /// Notes when the source said `word` last, and whether the target, which is at `done`, is behind what was read.
    pub fn look(&mut self, word: i64, behind: bool, done: Position, now: Instant) {
        if self.word.is_none_or(|(known, _)| known != word) {
            self.word = Some((word, now));
        }
        self.behind = match self.behind {
            _ if !behind => None,
            // It moves: what waits now has not waited since then.
            Some(before) if before.at == done => Some(before),
            _ => Some(Behind { since: now, at: done }),
        };
    }

    /// The lag at `now` by the source's clock and `here` by ours.
    pub fn seconds(&self, now: i64, here: Instant) -> f64 {
        let since = |then: Instant| here.saturating_duration_since(then);
        let late = match (self.behind, self.oldest) {
            (None, None) => 0.0,
            (_, Some(oldest)) => seconds(now - oldest),
            // Read and not under way yet: it is a moment old, or as old as what went before it.
            (Some(behind), None) => since(behind.since).as_secs_f64().max(self.last),
        };
        let silent = self.word.map_or(Duration::ZERO, |(_, heard)| since(heard));
        if silent > SILENT { late.max(silent.as_secs_f64()) } else { late }
    }
}

fn seconds(microseconds: i64) -> f64 {
    microseconds.max(0) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Lsn;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(lsn: u64) -> Position {
        Position::at(Lsn(lsn))
    }

    #[test]
    fn what_is_in_flight_is_as_late_as_its_oldest_commit() {
        let (mut late, here) = (Lateness::default(), Instant::now());
        late.look(1, true, at(1), here);
        late.begun(5_000_000);
        late.begun(7_000_000);
        assert_eq!(late.seconds(3_605_000_000, here), 3600.0, "it was committed an hour ago");
        assert_eq!(late.settled(5_000_000, 3_606_000_000), 3601.0);
        late.look(1, false, at(2), here);
        assert_eq!(late.seconds(3_606_000_000, here), 0.0);
    }

    #[test]
    fn a_steady_stream_is_not_late_because_something_is_always_under_way() {
        let (mut late, start) = (Lateness::default(), Instant::now());
        for second in 0..100 {
            let here = start + second * SECOND;
            late.look(i64::from(second), true, at(u64::from(second)), here);
            late.settled(0, 4_000);
            assert!(late.seconds(0, here) < 0.01, "after {second} s: {}", late.seconds(0, here));
        }
        let later = start + 105 * SECOND;
        late.look(105, true, at(99), later);
        assert_eq!(late.seconds(0, later), 6.0, "nothing has moved since");
    }

    #[test]
    fn a_source_that_says_nothing_may_hold_anything() {
        let (mut late, start) = (Lateness::default(), Instant::now());
        late.look(1, false, at(1), start);
        late.look(1, false, at(1), start + 29 * SECOND);
        assert_eq!(late.seconds(0, start + 29 * SECOND), 0.0);
        assert_eq!(late.seconds(0, start + 45 * SECOND), 45.0);
        late.look(2, false, at(1), start + 46 * SECOND);
        assert_eq!(late.seconds(0, start + 46 * SECOND), 0.0);
    }
}
