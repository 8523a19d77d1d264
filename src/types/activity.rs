//! What somebody did, or what happened, for the time line. It travels in a bounded queue that nobody waits for: where it
//! is full, what is lost is counted, and the time line says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    pub at: Timestamp,
    /// What it is about: `service`, `route`, `recovery`, `table`, `parked`, `job`, `settings`, `session`, `workflow`.
    pub kind: String,
    /// A session, a script, the schedule, the service itself.
    pub who: String,
    pub what: String,
    pub table: Option<String>,
    pub detail: Option<String>,
}

impl Activity {
    pub fn new(kind: impl Into<String>, who: impl Into<String>, what: impl Into<String>) -> Self {
        let (kind, who, what) = (kind.into(), who.into(), what.into());
        Self { at: Timestamp::now(), kind, who, what: cut(what), table: None, detail: None }
    }

    pub fn at(mut self, table: impl Into<String>) -> Self {
        self.table = Some(cut(table.into()));
        self
    }

    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(cut(detail.into()));
        self
    }
}

/// A line of the time line is read by people; what Postgres refuses in a text is taken out.
const LONGEST: usize = 1000;

fn cut(text: String) -> String {
    if text.len() <= LONGEST && !text.contains('\0') {
        return text;
    }
    text.chars().filter(|c| *c != '\0').take(LONGEST).collect()
}

/// A line as it was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub id: i64,
    pub at: Timestamp,
    pub kind: String,
    pub who: String,
    pub what: String,
    pub table: Option<String>,
    pub detail: Option<String>,
}

/// Where whatever happens is told.
#[derive(Clone)]
pub struct Timeline {
    queue: mpsc::Sender<Activity>,
    lost: Arc<AtomicU64>,
}

/// Where it comes out.
pub struct Told {
    pub queue: mpsc::Receiver<Activity>,
    lost: Arc<AtomicU64>,
}

/// Lines that wait while the source does not answer; some 200 bytes each.
const WAITING: usize = 1024;

impl Timeline {
    pub fn new() -> (Self, Told) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        (Self { queue: sender, lost: lost.clone() }, Told { queue: receiver, lost })
    }

    /// Waits for nobody.
    pub fn tell(&self, activity: Activity) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue.try_send(activity) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Told {
    /// How many were lost since this was last asked.
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_line_that_is_full_holds_up_nobody_and_knows_what_it_lost() {
        let (timeline, mut told) = Timeline::new();
        (0..WAITING + 3).for_each(|n| timeline.tell(Activity::new("job", "schedule", n.to_string())));
        assert_eq!((told.lost(), told.lost()), (3, 0));
        assert_eq!(told.queue.try_recv().unwrap().what, "0");
        let long = Activity::new("table", "x", "y").because("a\0b".repeat(5000));
        assert!(long.detail.is_some_and(|text| text.len() == LONGEST && !text.contains('\0')));
    }
}
