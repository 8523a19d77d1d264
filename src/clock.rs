//! The source's clock, as it is known here. Commits are stamped by it; to say how old one is, nobody may ask this
//! host's clock, which may be wrong, or be set while we run. So it is asked now and then, and carried on by a clock that only
//! counts.

use std::time::{Duration, Instant};

/// What the source's clock said, and when.
#[derive(Clone, Copy, Debug)]
pub struct SourceClock {
    /// Microseconds since the Unix epoch.
    said: i64,
    at: Instant,
    /// The answer took so long: the clock is known to half of it.
    took: Duration,
}

/// An answer that came quickly is trusted more than a slow one of later, but not for ever: clocks drift apart.
const TRUSTED: Duration = Duration::from_secs(600);

impl SourceClock {
    /// It was asked at `asked`, has answered just now, and was read somewhere between.
    pub fn read(said: i64, asked: Instant, answered: Instant) -> Self {
        let took = answered.saturating_duration_since(asked);
        Self { said, at: asked + took / 2, took }
    }

    /// What it says at `when`, in microseconds since the Unix epoch.
    pub fn at(&self, when: Instant) -> i64 {
        match when.checked_duration_since(self.at) {
            Some(since) => self.said + since.as_micros() as i64,
            None => self.said - self.at.duration_since(when).as_micros() as i64,
        }
    }

    /// Which of two readings to go by.
    pub fn better(self, newer: Self) -> Self {
        // Set while we run, by more than both readings can err: the newer one knows.
        let moved = (newer.said - self.at(newer.at)).unsigned_abs() as u128;
        let set = moved > (self.took + newer.took).as_micros() / 2 + 1000;
        let old = newer.at.saturating_duration_since(self.at) > TRUSTED;
        if set || old || newer.took <= self.took { newer } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_clock_goes_on_from_the_middle_of_the_question() {
        let asked = Instant::now();
        let clock = SourceClock::read(5_000_000, asked, asked + 2 * SECOND);
        assert_eq!(clock.at(asked + SECOND), 5_000_000);
        assert_eq!(clock.at(asked + 4 * SECOND), 8_000_000);
        assert_eq!(clock.at(asked), 4_000_000);
    }

    #[test]
    fn a_quick_answer_outweighs_a_slow_one_until_it_is_old_or_the_clock_was_set() {
        let start = Instant::now();
        let quick = SourceClock::read(0, start, start + SECOND / 1000);
        let slow = |after: Duration, said: i64| SourceClock::read(said, start + after, start + after + SECOND);
        let kept = quick.better(slow(10 * SECOND, 10_400_000));
        assert_eq!(kept.at(start + 20 * SECOND), quick.at(start + 20 * SECOND));
        let newer = slow(601 * SECOND, 601_400_000);
        assert_eq!(quick.better(newer).at(start), newer.at(start), "it is old");
        let set = slow(10 * SECOND, 3_610_000_000);
        assert_eq!(quick.better(set).at(start), set.at(start), "it was set by an hour");
    }
}
