//! Whether workflows do their work, for the metric that an alert stands on: who reads the definitions and who delivers
//! tell how it goes.

use std::time::Duration;

use tokio::time::Instant;

pub struct Health {
    /// As the metric's label has it.
    work: &'static str,
    failing: Option<Failing>,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    since: Instant,
    last: Instant,
}

/// What is over sooner is a restart, or a lock that somebody held for a moment.
const SOON: Duration = Duration::from_secs(5);
/// Without a failure for so long it is well: what fails again and again between good moments is not.
const WELL: Duration = Duration::from_secs(15);

impl Health {
    /// Nothing is said before the first of the two is told.
    pub fn new(work: &'static str) -> Self {
        Self { work, failing: None }
    }

    pub fn works(&mut self) {
        self.tell(true);
    }

    pub fn fails(&mut self) {
        self.tell(false);
    }

    fn tell(&mut self, works: bool) {
        if let Some(working) = self.after(works, Instant::now()) {
            crate::metrics::get().workflows_working.set(self.work, f64::from(u8::from(working)));
        }
    }

    /// `None`: what was said before holds.
    fn after(&mut self, works: bool, now: Instant) -> Option<bool> {
        match (works, self.failing) {
            (true, Some(failing)) if now - failing.last < WELL => None,
            (true, _) => {
                self.failing = None;
                Some(true)
            }
            (false, failing) => {
                let since = failing.map_or(now, |failing| failing.since);
                self.failing = Some(Failing { since, last: now });
                (now - since >= SOON).then_some(false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moments_failure_is_none_and_a_moments_success_between_failures_is_none_either() {
        let (mut health, begun) = (Health::new("read"), Instant::now());
        let told = [
            (0, false, None), // before anything was told
            (1, true, None),
            (16, true, Some(true)),
            (20, false, None),
            (24, false, None),
            (25, false, Some(false)),
            (26, true, None),
            (36, false, Some(false)),
            (37, true, None),
            (51, true, Some(true)),
            (90, false, None),
            (91, true, None),
        ];
        for (second, works, expected) in told {
            assert_eq!(health.after(works, begun + Duration::from_secs(second)), expected, "at {second} s");
        }
    }
}
