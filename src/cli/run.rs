//! `lockstep run`: the service. Checks that nothing is missing, then replicates until a signal comes.

use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::Failure;
use crate::app::Outside;
use crate::config::Settings;
use crate::configure::Configure;
use crate::types::Fault;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Only check the settings, and end (exit 2: something is missing or wrong)
    #[arg(long)]
    pub check: bool,
}

/// Only whether the settings will do.
pub(super) fn check(settings: &Settings) -> Result<(), Failure> {
    settings.source.url()?;
    settings.supabase.endpoint()?;
    println!("the settings are complete");
    Ok(())
}

pub(super) async fn run(settings: Settings, file: Option<&Path>) -> Result<(), Failure> {
    settings.source.url()?;
    // The window takes what is missing of the project.
    if let Err(problem) = settings.supabase.endpoint() {
        let page = format!("http://{}/", settings.http.listen);
        warn!("{problem}; set it at {page}, or write it into .env and start again");
    }
    let (stop, shutdown) = watch::channel(false);
    tokio::spawn(signals(stop)?);
    info!(version = env!("CARGO_PKG_VERSION"), "Lockstep starts");
    // Each is an order of a person, or a signal.
    let ((orders, ordered), (changes, changed)) = (mpsc::channel(8), mpsc::channel(2));
    let configure = Configure { file: file.map(Path::to_owned), settings: settings.clone(), changes, fixed: None };
    tokio::spawn(configure.serve(ordered));
    crate::app::serve(settings, Outside { changes: changed, settings: orders }, shutdown).await?;
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
