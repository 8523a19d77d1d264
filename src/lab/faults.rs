//! Faults on demand: what the gateway does to the next requests, and a count of what it did.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::place::Seeded;

/// What may happen to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The connection is cut before anything goes upstream.
    RequestLost,
    /// The request is carried out, then the connection is cut instead of answering.
    AnswerLost,
    /// The request is carried out; of the answer only the head and the first half of its body arrive.
    CutMidBody,
    /// 429 with `Retry-After` in whole seconds; nothing goes upstream.
    TooMany { retry_after: u64 },
    /// This status without a `code` in the body, as the gateway itself answers; nothing goes upstream.
    Status(u16),
    /// The request is carried out, but answered with this status: a gateway that stopped waiting.
    StatusAfter(u16),
    /// The request goes upstream only after this long.
    Slow(Duration),
}

const KINDS: usize = 7;

impl Mishap {
    fn kind(self) -> usize {
        match self {
            Self::RequestLost => 0,
            Self::AnswerLost => 1,
            Self::CutMidBody => 2,
            Self::TooMany { .. } => 3,
            Self::Status(_) => 4,
            Self::StatusAfter(_) => 5,
            Self::Slow(_) => 6,
        }
    }
}

/// What has passed through so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// With a good key, to a known path.
    pub requests: u64,
    /// Bodies only.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub requests_lost: u64,
    pub answers_lost: u64,
    pub cut_mid_body: u64,
    pub too_many: u64,
    pub statuses: u64,
    pub statuses_after: u64,
    pub slow: u64,
}

impl Counts {
    /// Faults of every kind.
    pub fn injected(&self) -> u64 {
        let [lost, answers, cut] = [self.requests_lost, self.answers_lost, self.cut_mid_body];
        lost + answers + cut + self.too_many + self.statuses + self.statuses_after + self.slow
    }
}

/// The handle: cheap to clone, for any task. It takes effect from the next request on.
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

struct Shared {
    /// Whether `plan` holds anything: all that the common case looks at.
    armed: AtomicBool,
    plan: Mutex<Plan>,
    /// The largest body that is let through.
    largest: AtomicU64,
    requests: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    injected: [AtomicU64; KINDS],
    /// Wanted, and as it is.
    open: watch::Sender<bool>,
    listening: watch::Sender<bool>,
}

#[derive(Default)]
struct Plan {
    /// Only requests whose path contains this.
    aim: Option<String>,
    next: VecDeque<Mishap>,
    random: Vec<(Mishap, f64, Seeded)>,
}

impl Faults {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            armed: AtomicBool::new(false),
            plan: Mutex::default(),
            largest: AtomicU64::new(u64::MAX),
            requests: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            injected: Default::default(),
            open: watch::Sender::new(true),
            listening: watch::Sender::new(false),
        }))
    }

    /// This happens to each of the next `n` requests, after what was ordered before.
    pub fn next(&self, mishap: Mishap, n: usize) {
        let mut plan = self.plan();
        plan.next.extend(std::iter::repeat_n(mishap, n));
        self.0.armed.store(true, Relaxed);
    }

    /// This happens to any request with this probability, drawn from `seed`. Several may be ordered; one wins.
    pub fn random(&self, mishap: Mishap, probability: f64, seed: u64) {
        self.plan().random.push((mishap, probability, Seeded::new(seed)));
        self.0.armed.store(true, Relaxed);
    }

    /// Only requests whose path contains `part` are hit, from now on: `rpc/lockstep_apply`.
    pub fn aim(&self, part: &str) {
        self.plan().aim = Some(part.to_owned());
    }

    /// No more of it; the aim is forgotten too.
    pub fn clear(&self) {
        *self.plan() = Plan::default();
        self.0.armed.store(false, Relaxed);
    }

    /// How many of the ordered [`Faults::next`] have not happened yet.
    pub fn waiting(&self) -> usize {
        self.plan().next.len()
    }

    /// A request with a larger body is answered with 413, as something on the way would.
    pub fn largest(&self, bytes: u64) {
        self.0.largest.store(bytes, Relaxed);
    }

    pub(super) fn is_too_large(&self, bytes: u64) -> bool {
        bytes > self.0.largest.load(Relaxed)
    }

    /// Cuts every connection and refuses new ones; returns once it is so.
    pub async fn down(&self) {
        self.turn(false).await;
    }

    /// Listens again, on the same port; returns once it is so.
    pub async fn up(&self) {
        self.turn(true).await;
    }

    /// Cuts every connection; new ones are welcome.
    pub async fn cut(&self) {
        self.down().await;
        self.up().await;
    }

    pub fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let injected = &self.0.injected;
        Counts {
            requests: load(&self.0.requests),
            bytes_in: load(&self.0.bytes_in),
            bytes_out: load(&self.0.bytes_out),
            requests_lost: load(&injected[0]),
            answers_lost: load(&injected[1]),
            cut_mid_body: load(&injected[2]),
            too_many: load(&injected[3]),
            statuses: load(&injected[4]),
            statuses_after: load(&injected[5]),
            slow: load(&injected[6]),
        }
    }

    /// Counts a request and says what happens to it.
    pub(super) fn draw(&self, path: &str) -> Option<Mishap> {
        self.0.requests.fetch_add(1, Relaxed);
        if !self.0.armed.load(Relaxed) {
            return None;
        }
        let mishap = self.plan().draw(path)?;
        self.0.injected[mishap.kind()].fetch_add(1, Relaxed);
        Some(mishap)
    }

    pub(super) fn came_in(&self, bytes: usize) {
        self.0.bytes_in.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn went_out(&self, bytes: usize) {
        self.0.bytes_out.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn wanted_open(&self) -> watch::Receiver<bool> {
        self.0.open.subscribe()
    }

    pub(super) fn is_listening(&self, listening: bool) {
        self.0.listening.send_replace(listening);
    }

    async fn turn(&self, open: bool) {
        self.0.open.send_replace(open);
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.listening.subscribe().wait_for(|&listening| listening == open).await;
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plan {
    fn draw(&mut self, path: &str) -> Option<Mishap> {
        if self.aim.as_ref().is_some_and(|aim| !path.contains(aim.as_str())) {
            return None;
        }
        self.next.pop_front().or_else(|| {
            let mut happened = None;
            // Every one draws every time: what one seed yields does not depend on the others.
            for (mishap, probability, chance) in &mut self.random {
                if chance.happens(*probability) {
                    happened.get_or_insert(*mishap);
                }
            }
            happened
        })
    }
}
