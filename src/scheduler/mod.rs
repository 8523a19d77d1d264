//! When something is due: cron expressions in a time zone. It knows no replication; whoever asks says what to do then.
//!
//! Both days on which the clocks change are the library's to get right (a time that does not exist is due when the
//! clocks have moved on, one that comes twice is due once, `*` goes on through both), and `tests` here hold it to that.

mod expression;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use croner::Cron;
use jiff::{Timestamp, tz::TimeZone};

/// The times of several expressions in one zone, as one: an instant that two of them name is due once.
#[derive(Clone, Debug)]
pub struct Timetable {
    times: Vec<Cron>,
    zone: TimeZone,
}

impl Timetable {
    /// Reads the expressions, or says which field of which one is wrong. None at all is never due.
    pub fn parse(expressions: &[String], zone: &str) -> Result<Self, String> {
        let zone = self::zone(zone)?;
        let times = expressions.iter().map(|text| expression::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let table = Self { times, zone };
        // Well formed, and yet no day on which it comes: 30 February.
        let never = |cron: &Cron| cron.find_next_occurrence(&table.zoned(Timestamp::now()), false).is_err();
        match table.times.iter().zip(expressions).find(|(cron, _)| never(cron)) {
            Some((_, text)) => Err(format!("`{text}` never comes: no month has such a day")),
            None => Ok(table),
        }
    }

    /// The first time that is due after `now`.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let next = |cron: &Cron| cron.find_next_occurrence(&self.zoned(now), false).ok();
        self.times.iter().filter_map(next).map(|at| at.timestamp()).min()
    }

    /// The latest time that was due after `last` and not later than `now`: a run that nobody made.
    pub fn missed(&self, last: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let previous = |cron: &Cron| cron.find_previous_occurrence(&self.zoned(now), true).ok();
        let latest = self.times.iter().filter_map(previous).map(|at| at.timestamp()).max()?;
        (latest > last).then_some(latest)
    }

    fn zoned(&self, at: Timestamp) -> jiff::Zoned {
        at.to_zoned(self.zone.clone())
    }
}

/// A zone by its name, such as `Europe/Berlin`.
pub fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name)
        .map_err(|_| format!("`{name}` is not a time zone; write it as Region/City, such as Europe/Berlin, or UTC"))
}

/// A delay below `most`, another one each time: many services on one clock do not all begin at once.
pub fn jitter(most: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) >> 11; // 53 bits, as many as a f64 holds
    most.mul_f64(random as f64 / (1u64 << 53) as f64)
}
