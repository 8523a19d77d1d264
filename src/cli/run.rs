//! `lockstep run`: the service. Checks that nothing is missing, then replicates until a signal comes.

use std::path::{Path, PathBuf};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use super::{Failure, log};
use crate::app::Outside;
use crate::config::Settings;
use crate::configure::Configure;
use crate::types::{Fault, SettingsAsk, SettingsOrder};

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
    tokio::spawn(told(orders.clone(), file.map(Path::to_owned))?);
    crate::app::serve(settings, Outside { changes: changed, settings: orders }, shutdown).await?;
    info!("Lockstep has stopped");
    Ok(())
}

/// What an operator may say to a process that runs: SIGHUP reads the settings again, SIGUSR1 has the log tell more, or
/// as much as before.
fn told(orders: mpsc::Sender<SettingsOrder>, file: Option<PathBuf>) -> Result<impl Future<Output = ()>, Fault> {
    let (mut hangup, mut user) = (listen(SignalKind::hangup())?, listen(SignalKind::user_defined1())?);
    Ok(async move {
        loop {
            tokio::select! {
                _ = hangup.recv() => reload(&orders, file.as_deref()).await,
                _ = user.recv() => info!(level = log::turn(), "SIGUSR1: the log tells another amount"),
            }
        }
    })
}

/// Settings that will not do are refused as a whole: the ones before stay in force.
async fn reload(orders: &mpsc::Sender<SettingsOrder>, file: Option<&Path>) {
    crate::app::reloading(false);
    let (reply, answer) = oneshot::channel();
    let sent = orders.send(SettingsOrder { ask: SettingsAsk::Reload, reply }).await.is_ok();
    let refused = match answer.await {
        Ok(Ok(_)) => None,
        Ok(Err(refusal)) => Some(refusal.to_string()),
        Err(_) => Some("the service is stopping".to_owned()),
    };
    let result = if refused.is_none() && sent { "taken" } else { "refused" };
    crate::metrics::get().reloads.with_label_values(&[result]).inc();
    match refused {
        None => {
            info!("SIGHUP: the settings were read again");
            if let Ok(settings) = crate::config::load(file) {
                log::level(&settings.log.level);
            }
        }
        Some(cause) => error!(%cause, "SIGHUP: the settings were refused; the ones before stay in force"),
    }
    crate::app::reloading(true);
}

fn listen(kind: SignalKind) -> Result<Signal, Fault> {
    signal(kind).map_err(|error| Fault::retry(format!("cannot listen for signals: {error}")))
}

/// Turns the first SIGTERM or Ctrl-C into `true`: drain. The second one ends the process at once; what was not
/// finished is sent again after the next start, so that is safe too, only slower.
fn signals(stop: watch::Sender<bool>) -> Result<impl Future<Output = ()>, Fault> {
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
