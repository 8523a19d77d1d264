//! `lockstep run`: the service. Checks that nothing is missing, then replicates until a signal comes.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use super::Failure;
use crate::config::Settings;
use crate::types::Fault;

pub(super) async fn run(settings: Settings) -> Result<(), Failure> {
    settings.source.url()?;
    settings.supabase.endpoint()?;
    let (stop, shutdown) = watch::channel(false);
    tokio::spawn(signals(stop)?);
    info!(version = env!("CARGO_PKG_VERSION"), "Lockstep starts");
    crate::app::run(settings, shutdown).await?;
    info!("Lockstep has stopped");
    Ok(())
}

/// Turns the first SIGTERM or Ctrl-C into `true`: drain. The second one ends the process at once; what was not
/// finished is sent again after the next start, so that is safe too, only slower.
fn signals(stop: watch::Sender<bool>) -> Result<impl Future<Output = ()>, Fault> {
    let listen = |kind| signal(kind).map_err(|error| Fault::retry(format!("cannot listen for signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        for already in [false, true] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "Ctrl-C",
            };
            if already {
                warn!("{name} again: stopping at once");
                std::process::exit(1);
            }
            info!("{name}: finishing what is in flight; once more stops at once");
            stop.send_replace(true);
        }
    })
}
