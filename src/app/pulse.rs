//! Whether the engine lives: each thread that the stream needs says so every second, and one that has not for a minute
//! is stuck. A target that is away for hours is no reason to die; a part that no longer runs is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Long against every pause of a healthy thread: planning the largest batch holds one for a second or two.
const STUCK: Duration = Duration::from_secs(60);
const BEAT: Duration = Duration::from_secs(1);

/// The hearts that beat now. Cheap to clone.
#[derive(Clone, Default)]
pub struct Pulse(Arc<Mutex<Vec<Arc<Mutex<Instant>>>>>);

impl Pulse {
    /// Beats for as long as it is polled, on the thread that polls it.
    pub async fn beat<T>(&self) -> T {
        let heart = Arc::new(Mutex::new(Instant::now()));
        self.hearts().push(heart.clone());
        let _gone = Gone(self.clone(), heart.clone());
        loop {
            *heart.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Whether all of them do. Before the first one there is nothing that could be stuck.
    pub fn beats(&self, now: Instant) -> bool {
        let stuck = |heart: &Arc<Mutex<Instant>>| {
            now.saturating_duration_since(*heart.lock().unwrap_or_else(PoisonError::into_inner)) > STUCK
        };
        !self.hearts().iter().any(stuck)
    }

    fn hearts(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Mutex<Instant>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part that has ended properly is not stuck.
struct Gone(Pulse, Arc<Mutex<Instant>>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.hearts().retain(|heart| !Arc::ptr_eq(heart, &self.1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_stands_still_is_noticed_and_one_that_has_ended_is_not_missed() {
        let pulse = Pulse::default();
        let later = || Instant::now() + STUCK + BEAT;
        assert!(pulse.beats(later()), "nothing runs yet");
        let (one, two) = (pulse.clone(), pulse.clone());
        let first = tokio::spawn(async move { one.beat::<()>().await });
        let second = tokio::spawn(async move { two.beat::<()>().await });
        while pulse.hearts().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert!(pulse.beats(Instant::now()));
        assert!(!pulse.beats(later()), "nobody has beaten for a minute");
        for part in [first, second] {
            part.abort();
            let _ = part.await;
        }
        assert!(pulse.beats(later()) && pulse.hearts().is_empty());
    }
}
