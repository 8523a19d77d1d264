//! What was learned about the way to the target, for as long as the service lives: how large a request may be, and
//! which transaction cannot be applied as one.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Larger requests travel in pieces from the start: what stands before Supabase, and PostgREST itself, holds a whole
/// request in memory.
const REQUEST_BYTES: usize = 8 << 20;
/// No proxy that lets anything through refuses so little.
const SMALLEST: usize = 16 << 10;

/// Cheap to clone; all clones know the same.
#[derive(Clone, Debug)]
pub struct Limits(Arc<Learned>);

#[derive(Debug)]
struct Learned {
    request_bytes: AtomicUsize,
    batch_bytes: Arc<AtomicUsize>,
    split: AtomicU64,
    run: u64,
    tickets: AtomicU64,
}

impl Limits {
    /// With the settings' size of a batch.
    pub fn new(batch_bytes: usize) -> Self {
        Self(Arc::new(Learned {
            request_bytes: AtomicUsize::new(REQUEST_BYTES),
            batch_bytes: Arc::new(AtomicUsize::new(batch_bytes)),
            split: AtomicU64::new(0),
            run: RandomState::new().hash_one(std::process::id()),
            tickets: AtomicU64::new(0),
        }))
    }

    /// The size at which a batch is full.
    pub fn batch_bytes(&self) -> Arc<AtomicUsize> {
        self.0.batch_bytes.clone()
    }

    /// The largest request to send as one.
    pub fn request_bytes(&self) -> usize {
        self.0.request_bytes.load(Relaxed)
    }

    /// A request of so many bytes was too large for something on the way. Says the new limit, or none: then there is
    /// nothing smaller to send.
    pub fn shrink(&self, refused: usize) -> Option<usize> {
        let limit = self.request_bytes().min(refused) / 2;
        if refused <= SMALLEST {
            return None;
        }
        let limit = limit.max(SMALLEST);
        self.0.request_bytes.store(limit, Relaxed);
        // A batch fits into one request with its names and quotes.
        self.0.batch_bytes.fetch_min(limit / 4 * 3, Relaxed);
        crate::metrics::get().request_limit_bytes.set(limit as i64);
        Some(limit)
    }

    /// The transaction that commits there is applied part by part: as one it was refused.
    pub fn split(&self, major: u64) {
        self.0.split.store(major, Relaxed);
    }

    pub fn is_split(&self, major: u64) -> bool {
        self.0.split.load(Relaxed) == major
    }

    /// A name for what is staged together, never used before.
    pub fn ticket(&self) -> String {
        format!("{:x}-{}", self.0.run, self.0.tickets.fetch_add(1, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_too_large_is_halved_down_to_a_floor_and_batches_shrink_with_it() {
        let limits = Limits::new(1_000_000);
        assert_eq!(limits.shrink(600_000), Some(300_000));
        assert_eq!((limits.clone().request_bytes(), limits.batch_bytes().load(Relaxed)), (300_000, 225_000));
        assert_eq!(limits.shrink(20_000), Some(SMALLEST));
        assert_eq!(limits.shrink(SMALLEST), None);
        assert_ne!(limits.ticket(), limits.ticket());
    }
}
