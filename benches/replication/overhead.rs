//! What being watched costs: catch-up of small transactions while nobody reads `/metrics`, and while somebody reads it
//! far more often than Prometheus does. Both in turns, each with a backlog of its own of the same size.

use std::time::{Duration, Instant};

use lockstep::lab::{LabError, Result};
use serde::Serialize;

use crate::stage::{Stage, failed};
use crate::usage;
use crate::way::{Running, Way};
use crate::work::Work;

/// Between two scrapes: 150 times as often as Prometheus's usual 15 s, so that there is something to see.
const SCRAPE: Duration = Duration::from_millis(100);

/// The backlogs of one kind together.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Side {
    pub rows: u64,
    pub seconds: f64,
    /// Of Lockstep's process.
    pub cpu_seconds: f64,
    pub scrapes: u64,
    pub bytes: u64,
}

impl Side {
    pub fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.seconds
    }
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Overhead {
    pub alone: Side,
    pub scraped: Side,
}

impl Overhead {
    /// The speed under scrapes as a share of the speed without.
    pub fn ratio(&self) -> f64 {
        self.scraped.rows_per_second() / self.alone.rows_per_second()
    }

    /// What one scrape costs Lockstep, in milliseconds of CPU, as far as the two sides tell.
    pub fn scrape_ms(&self) -> f64 {
        let expected = self.alone.cpu_seconds * self.scraped.rows as f64 / self.alone.rows as f64;
        (self.scraped.cpu_seconds - expected) * 1e3 / self.scraped.scrapes.max(1) as f64
    }
}

/// `turns` backlogs of each kind; the kinds take turns in going first.
pub async fn measure(stage: &mut Stage, transactions: u64, turns: usize) -> Result<Overhead> {
    let mut overhead = Overhead::default();
    for turn in 0..turns {
        for second in [false, true] {
            let scraped = (turn % 2 == 0) == second;
            let side = if scraped { &mut overhead.scraped } else { &mut overhead.alone };
            one(stage, Work::Small { transactions }, scraped, side).await?;
        }
    }
    Ok(overhead)
}

async fn one(stage: &mut Stage, work: Work, scraped: bool, side: &mut Side) -> Result<()> {
    let goal = work.make(stage).await?;
    stage.checkpoint().await?;
    let start = Instant::now();
    let mut running = Way::Lockstep.start(stage, None).await?;
    let pid = match &running {
        Running::Lockstep(child) => child.id(),
        Running::Native | Running::Decode(_) => None,
    };
    let scraper = scraped.then(|| Scraper::new(stage.http));
    let mut seen = (0, 0);
    match scraper {
        None => running.reach(stage, &goal).await?,
        Some(mut scraper) => {
            let forever = scraper.scrape();
            tokio::select! {
                end = running.reach(stage, &goal) => end?,
                never = forever => match never {},
            }
            seen = (scraper.scrapes, scraper.bytes);
            if seen.0 == 0 {
                return Err(LabError("nothing was scraped: the backlog is too small".into()));
            }
        }
    }
    side.seconds += start.elapsed().as_secs_f64();
    side.rows += work.rows();
    side.cpu_seconds += pid.map_or(0.0, usage::process);
    side.scrapes += seen.0;
    side.bytes += seen.1;
    running.stop(stage).await
}

struct Scraper {
    client: reqwest::Client,
    url: String,
    scrapes: u64,
    bytes: u64,
}

impl Scraper {
    fn new(port: u16) -> Self {
        let url = format!("http://127.0.0.1:{port}/metrics");
        Self { client: reqwest::Client::new(), url, scrapes: 0, bytes: 0 }
    }

    async fn scrape(&mut self) -> std::convert::Infallible {
        let mut clock = tokio::time::interval(SCRAPE);
        loop {
            clock.tick().await;
            // It does not listen yet, in the first moment.
            let page = match self.client.get(&self.url).send().await.and_then(|page| page.error_for_status()) {
                Ok(page) => page.bytes().await,
                Err(error) => Err(error),
            };
            match page {
                Ok(page) => (self.scrapes, self.bytes) = (self.scrapes + 1, self.bytes + page.len() as u64),
                Err(error) => tracing::debug!(cause = %failed(&error), "not scraped"),
            }
        }
    }
}
