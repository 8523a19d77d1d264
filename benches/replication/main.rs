//! Lockstep beside its measures: what decoding alone costs (`pg_recvlogical`) and what Postgres's own logical
//! replication does. One source, one backlog, one machine, one run; every way must end with the same rows.
//! `docs/benchmarks.md` says how to read the result.

mod overhead;
mod report;
mod stage;
mod steady;
mod usage;
mod way;
mod work;

use std::process::ExitCode;

use clap::Parser;
use lockstep::lab::{LabError, Result};

use report::{Measured, Report};
use stage::Stage;
use way::Way;
use work::Work;

/// `make bench`: catch-up of small transactions, of bulk transactions, and latency at a steady rate.
#[derive(Clone, Debug, Parser)]
#[command(name = "replication")]
pub struct Options {
    /// Transactions of one row in each round.
    #[arg(long, env = "LOCKSTEP_BENCH_SMALL", default_value_t = 100_000)]
    small: u64,
    /// Rounds of small transactions; the median counts. The ways take turns in going first.
    #[arg(long, env = "LOCKSTEP_BENCH_ROUNDS", default_value_t = 3)]
    rounds: usize,
    /// Rows of the bulk load, in transactions of 10,000.
    #[arg(long, env = "LOCKSTEP_BENCH_BULK", default_value_t = 1_000_000)]
    bulk: u64,
    /// Seconds of the steady rate for each way.
    #[arg(long, env = "LOCKSTEP_BENCH_SECONDS", default_value_t = 16)]
    seconds: u64,
    /// Commits a second, of one row each.
    #[arg(long, env = "LOCKSTEP_BENCH_RATE", default_value_t = 200)]
    rate: u64,
    /// Catch-ups with and without somebody who reads the metrics all the time, of a third of the small transactions.
    #[arg(long, env = "LOCKSTEP_BENCH_OVERHEAD", default_value_t = 4)]
    overhead: usize,
    /// Print JSON instead of the table.
    #[arg(long)]
    json: bool,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&options)) {
        Ok(report) => {
            print!("{}", if options.json { report.json() } else { report.table() });
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the benchmark failed: {error}");
            ExitCode::FAILURE
        }
    }
}

const TURNS: u64 = 4;

async fn run(options: &Options) -> Result<Report> {
    say("making a source and a Supabase with HTTPS");
    let mut stage = Stage::new().await?;
    let mut report = Report::new(&stage, options);

    say("warming up");
    for work in [Work::Small { transactions: options.small.clamp(100, 5_000) }, Work::Bulk { rows: 10_000 }] {
        catch_up(&mut stage, work, &Way::ALL).await?;
    }

    let small = Work::Small { transactions: options.small };
    let mut rounds = Vec::new();
    for round in 0..options.rounds.max(1) {
        say(&format!("small transactions, round {} of {}", round + 1, options.rounds.max(1)));
        let mut order = Way::ALL;
        order.rotate_left(round % Way::ALL.len());
        rounds.extend(catch_up(&mut stage, small, &order).await?);
    }
    report.small = Way::ALL.iter().filter_map(|way| report::median(&rounds, *way)).collect();

    if options.bulk > 0 {
        say("bulk transactions");
        report.bulk = catch_up(&mut stage, Work::Bulk { rows: options.bulk }, &Way::ALL).await?;
    }
    if options.overhead > 0 {
        say("small transactions, with and without scrapes of the metrics");
        report.overhead = Some(overhead::measure(&mut stage, options.small.div_ceil(3), options.overhead).await?);
    }
    if options.seconds > 0 {
        // In turns, so that a slow moment of the machine does not hit one way only.
        for turn in 0..TURNS {
            for way in [Way::Native, Way::Lockstep] {
                say(&format!("steady rate, turn {} of {TURNS}: {way}", turn + 1));
                let waits = steady::measure(&mut stage, way, options.rate, options.seconds.div_ceil(TURNS)).await?;
                report.latency.entry(way).or_default().extend(waits);
            }
        }
    }

    say("comparing all rows of all sides");
    let last = work::goal(&mut stage).await?;
    for way in [Way::Native, Way::Lockstep] {
        let mut running = way.start(&stage, None).await?;
        running.reach(&stage, &last).await?;
        running.stop(&stage).await?;
    }
    let differences = stage.differences().await?;
    if differences.is_empty() { Ok(report) } else { Err(LabError(differences.join("\n"))) }
}

/// One backlog, made while nobody reads; then each way reads it, alone.
async fn catch_up(stage: &mut Stage, work: Work, order: &[Way]) -> Result<Vec<Measured>> {
    let goal = work.make(stage).await?;
    let mut all = Vec::new();
    for way in order {
        stage.checkpoint().await?;
        let measured = way.catch_up(stage, &work, &goal).await?;
        say(&format!("  {way}: {:.0} rows/s", measured.rows_per_second()));
        all.push(measured);
    }
    all.sort_by_key(|measured| measured.way);
    Ok(all)
}

/// Progress goes to stderr: stdout holds the result alone.
fn say(what: &str) {
    eprintln!("{what}");
}
