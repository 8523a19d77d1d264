//! What capture by triggers costs, and what it gives: statements at the source without triggers, with ours and with a
//! trigger for each row; then slot and journal side by side, through the whole of Lockstep.

mod capture;
mod triggers;

use std::process::ExitCode;

use clap::Parser;
use lockstep::lab::{LabError, Result};

/// `make bench` runs it behind the other one.
#[derive(Clone, Debug, Parser)]
#[command(name = "journal")]
pub struct Options {
    /// Rows of the largest statement.
    #[arg(long, env = "LOCKSTEP_BENCH_ROWS", default_value_t = 100_000)]
    rows: u64,
    /// How often each statement is measured; the median counts.
    #[arg(long, env = "LOCKSTEP_BENCH_ROUNDS", default_value_t = 5)]
    rounds: usize,
    /// Transactions of one row that wait when Lockstep starts.
    #[arg(long, env = "LOCKSTEP_BENCH_SMALL", default_value_t = 50_000)]
    small: u64,
    /// Commits whose way is timed, one at a time.
    #[arg(long, default_value_t = 300)]
    commits: u64,
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
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the benchmark failed: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    triggers::run(options).await?;
    println!();
    capture::run(options).await
}

fn failed(error: impl std::fmt::Display) -> LabError {
    LabError(error.to_string())
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
