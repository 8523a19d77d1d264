//! `lockstep demo`: a source, a Supabase and Lockstep between them, on this machine, to be looked at and played with.
//!
//! Ctrl-C stops everything; a second start finds everything again, even after `kill -9`.

mod probe;
mod screen;
mod stage;
mod traffic;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Failure;
use crate::lab::LabError;
use crate::types::Fault;
use probe::Probe;
use screen::Steps;
use stage::Stage;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Changes per second to make in the source: a steady mix of inserts, updates and deletes
    #[arg(long, value_name = "RATE", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    traffic: Option<u32>,
    /// End once both sides hold the same rows: exit 0 with a summary; with --traffic, after ten seconds of it
    #[arg(long)]
    exit_when_synced: bool,
    /// How rows are written: `rpc` through our functions, or `tables` without any
    #[arg(long, value_name = "WAY", value_enum, default_value_t = Way::Rpc)]
    apply: Way,
    /// How changes are read: `wal` from a replication slot, or `journal` that triggers write
    #[arg(long, value_name = "WAY", value_enum, default_value_t = Capture::Wal)]
    capture: Capture,
    /// Where the demo keeps its clusters and demo.json [default: the user's folder for state]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Way {
    Rpc,
    Tables,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Capture {
    Wal,
    Journal,
}

/// How much traffic `--exit-when-synced` sees before it asks whether both sides are equal.
const TRAFFIC_FIRST: Duration = Duration::from_secs(10);
/// A first copy of the demo's rows takes a second; this is for a machine that is busy with other things.
const IN_STEP_WITHIN: Duration = Duration::from_secs(120);

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let mut stop = signals()?;
    let dir = args.dir.clone().map_or_else(stage::default_dir, Ok)?;
    let mut steps = Steps::start(&dir);
    let raised = tokio::select! {
        raised = raise(&args, &dir, &mut steps) => Some(raised?),
        _ = stop.wait_for(|&stop| stop) => None,
    };
    let Some((mut stage, mut probe)) = raised else {
        println!("\nStopped before it was ready.");
        return Ok(());
    };
    let end = match args.exit_when_synced {
        true => tokio::select! {
            end = until_equal(&args, &mut stage) => end,
            _ = stop.wait_for(|&stop| stop) => Ok(()),
        },
        false => play(&args, &mut stage, &mut probe, stop).await,
    };
    drop(probe);
    steps.step("Stopping", stage.close()).await?;
    end
}

/// Starts all of it, waits until both sides are in step, and shows where everything is.
async fn raise(args: &Args, dir: &std::path::Path, steps: &mut Steps) -> Result<(Stage, Probe), Failure> {
    let mut stage = Stage::open(dir, (args.apply, args.capture), steps).await?;
    steps.step("Lockstep, until both sides are in step", stage.in_step(IN_STEP_WITHIN)).await?;
    let mut probe = Probe::open(&stage).await?;
    let timed = steps.step("Timing changes, from commit to visible", probe.series()).await?;
    screen::show(&stage, &timed, args.exit_when_synced).await?;
    Ok((stage, probe))
}

/// Stays until it is told to stop, with a line that says how things are.
async fn play(
    args: &Args,
    stage: &mut Stage,
    probe: &mut Probe,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Failure> {
    let traffic = args.traffic.map(|rate| traffic::start(stage, rate));
    let terminal = std::io::stdout().is_terminal();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = stop.wait_for(|&stop| stop) => break,
            fault = stage.lockstep_ended() => {
                println!();
                return Err(fault.into());
            }
            _ = second.tick() => {
                if terminal {
                    let line = screen::line(traffic.as_ref(), probe).await;
                    screen::redraw(&line);
                }
            }
        }
    }
    println!();
    Ok(())
}

async fn until_equal(args: &Args, stage: &mut Stage) -> Result<(), Failure> {
    if let Some(rate) = args.traffic {
        let traffic = traffic::start(stage, rate);
        tokio::select! {
            fault = stage.lockstep_ended() => return Err(fault.into()),
            () = tokio::time::sleep(TRAFFIC_FIRST) => {}
        }
        println!("\n{} changes made in {} s.", traffic.stop().await, TRAFFIC_FIRST.as_secs());
    }
    stage.in_step(IN_STEP_WITHIN).await?;
    match screen::summary(stage).await? {
        true => Ok(()),
        false => Err(Failure::No),
    }
}

/// Turns true at the first Ctrl-C or SIGTERM. The second ends us at once, and the kernel ends our children.
fn signals() -> Result<watch::Receiver<bool>, Fault> {
    let listen = |kind| signal(kind).map_err(|error| Fault::retry(format!("cannot listen for signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (send, receive) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if send.send_replace(true) {
                std::process::exit(130);
            }
        }
    });
    Ok(receive)
}

/// What fails here is the machine, not a setting.
impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        Self::Work(Fault::retry(error.0))
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Work(crate::pg::client::fault(&error))
    }
}
