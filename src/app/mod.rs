//! The supervisor: keeps the route running for years. It connects the parts, looks at every fault once, and decides
//! whether to wait, to stop and look again, or to end.

mod alone;
pub(crate) mod capturing;
mod commands;
mod crew;
mod evolve;
pub(crate) mod judge;
mod lane;
mod lateness;
mod notify;
pub(crate) mod preflight;
mod pulse;
mod reach;
pub(crate) mod recovery;
mod report;
mod route;
mod service;
mod source_watch;
mod tables;
mod timeline;
mod vitals;
mod way;
mod workflows;

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use jiff::Timestamp;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::apply::Limits;
use crate::config::Settings;
use crate::pg;
use crate::status::{LastError, State, Status};
use crate::types::Fault;
pub use alone::{Counted, compare, data, runs, without_key};
pub use notify::reloading;
pub use preflight::client as target;
pub use route::ROUTE;
pub(crate) use route::same_source;
use route::{Control, Ended};
pub use service::{Outside, serve};
use tables::Refused;
pub use workflows::ask as ask_workflows;

async fn supervise(
    settings: &Settings,
    status: &watch::Sender<Status>,
    control: &Control,
    mut was_up: bool,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), Fault> {
    let look_again = settings.retry.look_again;
    let mut waits = waits();
    // A table that was refused while it streamed: the next start sets it aside.
    let mut refused = Vec::new();
    let limits = Limits::new(settings.apply.max_batch_bytes);
    loop {
        let mut up = false;
        let fault = match route::run(settings, status, &mut up, control, &refused, &limits, shutdown.clone()).await {
            Ok(Ended::Shutdown) => return Ok(()),
            Ok(Ended::LookAgain) => {
                was_up = true;
                refused.clear(); // the target knows
                continue;
            }
            Err(fault) => fault,
        };
        if up {
            was_up = true;
            refused.clear(); // the target knows
            waits = self::waits(); // it worked: the next trouble is a new one
        }
        let wait = match &fault {
            Fault::Stop { .. } if !was_up => return Err(fault),
            Fault::Stop { cause, fix } => {
                crate::metrics::get().retries.with_label_values(&["setup"]).inc();
                error!(%cause, %fix, look_again_in = ?look_again, "stopped");
                look_again
            }
            Fault::Retry { cause } => {
                let wait = waits.next().unwrap_or(look_again);
                crate::metrics::get().retries.with_label_values(&["source"]).inc();
                warn!(%cause, retry_in = ?wait, "the route was interrupted");
                wait
            }
            Fault::Park { table, cause } => {
                let wait = waits.next().unwrap_or(look_again);
                warn!(%table, %cause, "a table was refused; the route starts again without it");
                refused.push(Refused { table: table.clone(), cause: cause.clone() });
                wait
            }
        };
        publish(status, &fault);
        if pause(wait, status, control, &mut shutdown).await {
            info!("stopping while the route was down; nothing is in flight");
            return Ok(());
        }
    }
}

/// From a moment to half a minute, with jitter, for ever.
fn waits() -> impl Iterator<Item = Duration> {
    let backoff = ExponentialBuilder::default().with_jitter().without_max_times();
    backoff.with_min_delay(Duration::from_millis(100)).with_max_delay(Duration::from_secs(30)).build()
}

fn publish(status: &watch::Sender<Status>, fault: &Fault) {
    let now = Timestamp::now();
    let (state, cause, fix) = match fault {
        Fault::Retry { cause } => (State::Waiting { cause: cause.clone() }, cause.clone(), None),
        Fault::Stop { cause, fix } => {
            (State::Stopped { cause: cause.clone(), fix: fix.clone() }, cause.clone(), Some(fix.clone()))
        }
        Fault::Park { table, cause } => {
            let cause = format!("{table}: {cause}");
            (State::Waiting { cause: cause.clone() }, cause, None)
        }
    };
    status.send_modify(|status| {
        status.state = state;
        status.updated_at = now;
        status.last_error = Some(LastError { at: now, cause, fix });
        status.source.set(false, now);
        status.target.set(false, now);
        status.lag = crate::status::Lag::default();
        status.held = None;
        status.rows_per_second = 0.0;
    });
    report::connected(false, false);
}

/// Waits; true when the shutdown came first. The status says every few seconds that somebody is still here.
async fn pause(
    wait: Duration,
    status: &watch::Sender<Status>,
    control: &Control,
    shutdown: &mut watch::Receiver<bool>,
) -> bool {
    let mut asked = control.look_again.subscribe();
    let until = tokio::time::Instant::now() + wait;
    loop {
        status.send_modify(|status| status.updated_at = Timestamp::now());
        tokio::select! {
            () = tokio::time::sleep_until(until) => return false,
            Ok(()) = asked.changed() => return false,
            () = tokio::time::sleep(Duration::from_secs(3)) => {}
            ended = shutdown.wait_for(|&stop| stop) => return ended.is_ok(),
        }
    }
}

/// Address of the source for messages; see `pg::Url`.
pub(crate) type SourceUrl = pg::Url;
