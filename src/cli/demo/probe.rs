//! How long a change takes: from its commit in the source until a select in the target shows it.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, Statement};

use super::super::Failure;
use super::stage::Stage;
use crate::types::Fault;

/// Two warm connections and what they ask.
pub(super) struct Probe {
    source: Client,
    target: Client,
    change: Statement,
    look: Statement,
}

/// Times of several changes, sorted.
pub(super) struct Timed(Vec<Duration>);

// Enough for a 99th percentile that is not simply the worst of a handful.
const SERIES: usize = 100;
// The first ones fill caches on the way.
const WARM_UP: usize = 10;

/// Night Watch is not doing anything else.
const CHANGE: &str = "update agents set last_seen_at = clock_timestamp() where agent_id = 'night_watch' \
    returning last_seen_at::text";
const LOOK: &str = "select 1 from agents where agent_id = 'night_watch' and last_seen_at >= $1::text::timestamptz";

impl Probe {
    pub(super) async fn open(stage: &Stage) -> Result<Self, Failure> {
        let (source, target) = tokio::try_join!(stage.source.connect(), stage.supabase.cluster.connect())?;
        let change = source.prepare(CHANGE).await?;
        let look = target.prepare(LOOK).await?;
        Ok(Self { source, target, change, look })
    }

    /// One change, timed from the moment its commit is known.
    pub(super) async fn once(&mut self, limit: Duration) -> Result<Duration, Failure> {
        let changed = self.source.query_opt(&self.change, &[]).await?;
        let start = Instant::now();
        let Some(stamp) = changed else {
            return Err(Fault::stop("the agent night_watch is gone", "insert it again, or remove the folder").into());
        };
        let stamp: String = stamp.get(0);
        // No pause between looks: the time of a pause would be what is measured.
        while self.target.query_opt(&self.look, &[&stamp]).await?.is_none() {
            if start.elapsed() > limit {
                return Err(Fault::retry(format!("not visible after {} s", limit.as_secs())).into());
            }
        }
        Ok(start.elapsed())
    }

    pub(super) async fn series(&mut self) -> Result<Timed, Failure> {
        let mut times = Vec::with_capacity(SERIES);
        for n in 0..WARM_UP + SERIES {
            let time = self.once(Duration::from_secs(30)).await?;
            if n >= WARM_UP {
                times.push(time);
            }
        }
        Ok(Timed::new(times))
    }
}

impl Timed {
    fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest time that this share of the changes did not exceed.
    pub(super) fn percentile(&self, share: f64) -> Duration {
        let place = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(place.saturating_sub(1)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_time_that_was_measured() {
        let timed = Timed::new((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(timed.percentile(0.5), Duration::from_millis(50));
        assert_eq!(timed.percentile(0.99), Duration::from_millis(99));
        assert_eq!(timed.percentile(1.0), Duration::from_millis(100));
        assert_eq!(Timed::new(Vec::new()).percentile(0.5), Duration::ZERO);
    }
}
