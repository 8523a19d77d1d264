//! What a comparison asks of the target. Two ways answer: our function there, which makes digests of what it is asked
//! for; or plain PostgREST, which knows no digests, so that every row is read and hashed here. Nothing is answered before
//! the target holds what the source held when it was asked.

mod functions;
mod pages;
mod plain;

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::part::{Bounds, Digest, Key};
use super::prove::Seen;
use super::{Reading, Settings};
use crate::pg::Client;
use crate::rest::{Class, Failure, Sizes};
use crate::types::{Fault, Lsn, Position, Table};
use functions::Functions;
use pages::Pages;

pub enum Target<'a> {
    Functions(Functions<'a>),
    Pages(Box<Pages<'a>>),
}

/// Why an answer did not come.
pub enum Trouble {
    /// It took the target longer than it may: ask for less.
    TooMuch,
    Fault(Fault),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What must be known of a table before it is compared.
#[derive(Debug, serde::Deserialize)]
pub struct Look {
    pub missing: Vec<String>,
    /// Types of the key's columns.
    pub key_types: Vec<String>,
    pub blocks: u64,
}

/// What the questions have cost so far: bodies, and addresses where those hold the question.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub sent: u64,
    pub received: u64,
    pub requests: u64,
    /// How long the last answer took.
    pub took: Duration,
}

/// The target has stood still for so long that nothing can be said about it.
const STANDS_STILL: Duration = Duration::from_secs(60);
/// Plain requests hold back a row that refers to one whose copy has not come yet, and the checkpoint with it: who makes
/// copies gives up that much sooner, and copies.
const HELD_BACK: Duration = Duration::from_secs(10);
/// Between two questions whether it is there, at first and at most.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// How often a request that failed by what passes is made, some 30 s in all. Then the comparison fails, not the route.
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(250);

impl<'a> Target<'a> {
    /// `reached` tells how far the target is, where the stream runs in this process; `copies` that others may wait for it.
    pub fn new(
        settings: &'a Settings,
        source: &'a Client,
        table: &'a Table,
        reached: Option<watch::Receiver<Position>>,
        copies: bool,
    ) -> Self {
        let patience = if copies { HELD_BACK } else { STANDS_STILL };
        match &settings.reading {
            Reading::Digests => Self::Functions(Functions::new(&settings.target, &settings.route, table, reached)),
            Reading::Rows { slot } => {
                Self::Pages(Box::new(Pages::new(settings, source, slot, table, reached, patience)))
            }
        }
    }

    pub fn cost(&self) -> Cost {
        match self {
            Self::Functions(functions) => functions.cost,
            Self::Pages(pages) => pages.cost,
        }
    }

    /// Whether every answer is made of all rows: then small questions are no cheaper than large ones.
    pub fn reads_rows(&self) -> bool {
        matches!(self, Self::Pages(_))
    }

    /// What a reader must know of how it was compared.
    pub fn note(&self) -> Option<String> {
        match self {
            Self::Functions(_) => None,
            Self::Pages(_) => Some("without our SQL in Supabase every row was read over the wire".into()),
        }
    }

    pub async fn look(&mut self) -> Result<Look, Trouble> {
        match self {
            Self::Functions(functions) => functions.look().await,
            Self::Pages(pages) => pages.look().await,
        }
    }

    /// The digest of all rows of a table without a key, where one can be had.
    pub async fn whole(&mut self) -> Result<Option<Digest>, Trouble> {
        match self {
            Self::Functions(functions) => functions.whole().await.map(Some),
            Self::Pages(_) => Ok(None),
        }
    }

    /// The digests of some ranges, in their order.
    pub async fn ranges(&mut self, at: Lsn, ranges: &[Bounds]) -> Result<Vec<Digest>, Trouble> {
        match self {
            Self::Functions(functions) => functions.ranges(at, ranges).await,
            Self::Pages(pages) => pages.ranges(at, ranges).await,
        }
    }

    /// The first rows of some ranges, at most `most` of each, in the key's order.
    pub async fn rows(&mut self, at: Lsn, ranges: &[Bounds], most: u64) -> Result<Vec<Vec<(Key, String)>>, Trouble> {
        match self {
            Self::Functions(functions) => functions.rows(at, ranges, most).await,
            Self::Pages(pages) => pages.rows(at, ranges, most).await,
        }
    }

    /// The digests of the buckets that hold anything, of some blocks.
    pub async fn buckets(
        &mut self,
        at: Lsn,
        modulus: u32,
        of: Option<&[u32]>,
        blocks: (u64, Option<u64>),
    ) -> Result<HashMap<u32, Digest>, Trouble> {
        match self {
            Self::Functions(functions) => functions.buckets(at, modulus, of, blocks).await,
            Self::Pages(pages) => pages.buckets(at, modulus).await,
        }
    }

    pub async fn rows_of_buckets(
        &mut self,
        at: Lsn,
        modulus: u32,
        of: &[u32],
        blocks: (u64, Option<u64>),
    ) -> Result<Vec<(Key, String)>, Trouble> {
        match self {
            Self::Functions(functions) => functions.rows_of_buckets(at, modulus, of, blocks).await,
            Self::Pages(pages) => pages.rows_of_buckets(at, modulus, of).await,
        }
    }

    /// Single rows, each in the place of its key.
    pub async fn observe(&mut self, at: Lsn, keys: &[Key]) -> Result<Vec<Option<Seen>>, Trouble> {
        match self {
            Self::Functions(functions) => functions.observe(at, keys).await,
            Self::Pages(pages) => pages.observe(at, keys).await,
        }
    }

    /// Returns once the target holds all that was committed before this point.
    pub async fn reach(&mut self, at: Lsn) -> Result<(), Trouble> {
        match self {
            Self::Functions(functions) => functions.reach(at).await,
            Self::Pages(pages) => pages.wait(at).await,
        }
    }
}

/// Waits for the checkpoint where it is told in this process, without asking anybody.
async fn told(reached: &mut watch::Receiver<Position>, at: Position, patience: Duration) -> Result<(), Fault> {
    loop {
        let now = *reached.borrow_and_update();
        if now >= at {
            return Ok(());
        }
        match timeout(patience, reached.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Fault::retry("the route ended")),
            Err(_) => return Err(stands_still(now, patience)),
        }
    }
}

/// Waits for what must be asked for; `None` while it is not there, with the position that was seen.
struct Patience {
    pause: Duration,
    before: Position,
    moved: Instant,
}

impl Patience {
    fn new() -> Self {
        Self { pause: ASK_AGAIN.0, before: Position::default(), moved: Instant::now() }
    }

    /// The target was seen at `now`, which is not far enough.
    async fn behind(&mut self, now: Position) -> Result<(), Fault> {
        if now != self.before {
            (self.before, self.moved) = (now, Instant::now());
        }
        if self.moved.elapsed() > STANDS_STILL {
            return Err(stands_still(now, STANDS_STILL));
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(ASK_AGAIN.1);
        Ok(())
    }
}

/// Attempts at one request.
struct Attempts {
    made: u32,
    pause: Duration,
}

impl Attempts {
    fn new() -> Self {
        Self { made: 0, pause: FIRST_PAUSE }
    }

    /// One failed: waits before the next one while that has a point; `fault` says what the failure means otherwise.
    async fn failed(&mut self, failure: &Failure, fault: impl FnOnce(&Failure) -> Fault) -> Result<(), Trouble> {
        self.made += 1;
        if takes_too_long(failure) {
            return Err(Trouble::TooMuch);
        }
        if failure.class != Class::Transient || self.made >= ATTEMPTS {
            return Err(fault(failure).into());
        }
        let wait = self.pause.max(failure.retry_after.unwrap_or_default().min(Duration::from_secs(30)));
        warn!(cause = %failure, retry_in = ?wait, "Supabase did not answer the comparison; asking again");
        sleep(wait).await;
        self.pause *= 2;
        Ok(())
    }
}

impl Cost {
    fn add(&mut self, sizes: Sizes, begun: Instant) {
        self.took = begun.elapsed();
        self.sent += sizes.sent;
        self.received += sizes.received;
    }
}

fn takes_too_long(failure: &Failure) -> bool {
    failure.class == Class::TooLarge || failure.code.as_deref() == Some("57014")
}

fn stands_still(at: Position, patience: Duration) -> Fault {
    let seconds = patience.as_secs();
    Fault::retry(format!("the target's checkpoint has stood at {at} for {seconds} s, so it cannot be compared"))
}
