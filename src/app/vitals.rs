//! Looks at the status once a second, whoever scrapes or does not, and turns it into what machines ask for: the verdict
//! with its age, the state, and the word to the service manager that all is well.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use super::notify::Manager;
use super::pulse::Pulse;
use crate::metrics;
use crate::status::{State, Status, Verdict};

/// A verdict is no older than this.
const TICK: Duration = Duration::from_secs(1);

pub struct Vitals {
    pub status: watch::Receiver<Status>,
    /// The lag up to which both sides count as in step.
    pub within: Duration,
    pub pulse: Pulse,
    pub manager: Option<Manager>,
}

impl Vitals {
    pub async fn keep(mut self) -> Infallible {
        let mut tick = tokio::time::interval(TICK);
        let mut known: Option<Verdict> = None;
        loop {
            tick.tick().await;
            let status = self.status.borrow().clone();
            let verdict = status.verdict(Timestamp::now(), self.within);
            if known.as_ref().map(word) != Some(word(&verdict)) {
                metrics::get().verdict_since.set(Some(Timestamp::now().as_second() as f64));
            }
            show(&status.state, &verdict);
            if let Some(manager) = &mut self.manager {
                manager.tell(&verdict, has_begun(&status.state), self.pulse.beats(Instant::now()));
            }
            known = Some(verdict);
        }
    }
}

/// Whether it is known what there is to do: the manager need not wait for a project that is away.
fn has_begun(state: &State) -> bool {
    !matches!(state, State::Starting)
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::InStep => "in_step",
        Verdict::Behind(_) => "behind",
        Verdict::Broken(_) => "broken",
        Verdict::Unknown(_) => "unknown",
    }
}

fn show(state: &State, verdict: &Verdict) {
    let metrics = metrics::get();
    for known in ["in_step", "behind", "broken", "unknown"] {
        metrics.verdict.with_label_values(&[known]).set(i64::from(known == word(verdict)));
    }
    let is = match state {
        State::Starting => "starting",
        State::Copying => "copying",
        State::Streaming => "streaming",
        State::Waiting { .. } => "waiting",
        State::Stopped { .. } => "stopped",
        State::Draining => "draining",
        State::NotConfigured { .. } => "not_configured",
    };
    for known in ["starting", "copying", "streaming", "waiting", "stopped", "draining", "not_configured"] {
        metrics.state.with_label_values(&[known]).set(i64::from(known == is));
    }
}
