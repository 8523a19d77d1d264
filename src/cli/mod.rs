//! The verbs that people type. Each is a thin file that reads settings, calls one part and prints.

mod address;
mod data;
mod demo;
mod doctor;
mod log;
mod output;
mod parked;
mod run;
mod schema;
mod service;
mod setup;
mod status;
mod tables;
mod verify;
mod webhooks;
mod workflow;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Problem, Settings};
use crate::types::Fault;

/// Keeps a Supabase project in lockstep with a Postgres database.
///
/// Every committed change arrives in Supabase in order and exactly once, over HTTPS. Three settings are enough to
/// start, in the environment or in a file `.env`: DATABASE_URL, SUPABASE_URL and SUPABASE_KEY.
#[derive(Parser)]
#[command(name = "lockstep", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    /// The settings file [default: lockstep.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE", env = "LOCKSTEP_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Replicate until told to stop (Ctrl-C or SIGTERM)
    Run(run::Args),
    /// Ask the running service whether both sides are in step
    Status(status::Args),
    /// Show what Supabase refused, try it again, or give it up
    Parked(parked::Args),
    /// Look at both sides before anything is changed, and say what to mend
    Doctor(doctor::Args),
    /// Compare both sides (exit 0: equal, 1: different, 2: it could not be told)
    Verify(verify::VerifyArgs),
    /// Compare both sides, and repair what differs
    Sync(verify::SyncArgs),
    /// Where each table stands; pause, resume or resync one
    Tables(tables::TablesArgs),
    /// What is there: rows of each table on both sides (exit 0: the same numbers)
    Data(data::Args),
    /// What runs of comparison found and repaired, the newest first
    Runs(tables::RunsArgs),
    /// Workflows: what there is, what became of their runs; create, test, replay
    Workflow(workflow::Args),
    /// Try it: two Postgres clusters, PostgREST and Lockstep between them, on this machine
    Demo(demo::Args),
    /// Install what Lockstep needs on either side, print it, or take it away again
    Setup(setup::Args),
    /// Print the SQL that creates the source's tables in Supabase
    Schema(schema::Args),
}

/// Why a verb ended otherwise than well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A mistake in the settings: exit 2, as for a mistake on the command line.
    Settings(Problem),
    /// The work failed: exit 1.
    Work(Fault),
    /// The answer is no, and has been printed: exit 1.
    No,
    /// The question could not be answered, for this reason: exit 2.
    Unknown(Fault),
    /// The same, and it has been printed.
    CannotTell,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Settings(problem)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Work(fault)
    }
}

/// Whoever reads may have seen enough (`lockstep tables | head`): that is the end, as of any other program, and no fault.
fn quiet_when_nobody_reads() {
    const BY_SIGPIPE: i32 = 141;
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let why = panic.payload_as_str().unwrap_or_default();
        if why.starts_with("failed printing to stdout") && why.contains("Broken pipe") {
            std::process::exit(BY_SIGPIPE);
        }
        usual(panic);
    }));
}

/// Parses the command line, runs the verb, and turns its end into the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error),
    };
    quiet_when_nobody_reads();
    // Every TLS client takes the process's provider, and panics without one.
    rustls::crypto::ring::default_provider().install_default().ok();
    match go(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::No) => ExitCode::FAILURE,
        Err(Failure::CannotTell) => ExitCode::from(2),
        Err(Failure::Unknown(fault)) => {
            output::complain(&fault.to_string());
            ExitCode::from(2)
        }
        Err(Failure::Settings(problem)) => {
            output::complain(&problem.to_string());
            ExitCode::from(2)
        }
        Err(Failure::Work(fault)) => {
            output::complain(&fault.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Help and version too come as an "error"; what it says may hold addresses with their passwords.
fn misunderstood(error: &clap::Error) -> ExitCode {
    let arguments = || std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    if !arguments().any(|argument| argument.contains("://")) {
        error.exit();
    }
    let message = address::without_addresses(&error.render().to_string(), arguments());
    if error.use_stderr() {
        eprint!("{message}");
    } else {
        print!("{message}");
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn go(cli: Cli) -> Result<(), Failure> {
    let settings = || -> Result<Settings, Failure> { Ok(config::load(cli.config.as_deref())?) };
    match cli.verb {
        Verb::Run(args) => {
            let settings = settings()?;
            if args.check {
                return run::check(&settings);
            }
            log::start(&settings.log);
            wait(run::run(settings, cli.config.as_deref()))
        }
        Verb::Status(args) => wait(status::run(args, &settings()?)),
        Verb::Parked(args) => wait(parked::run(args, &settings()?)),
        Verb::Doctor(args) => wait(doctor::run(args, cli.config.as_deref())),
        Verb::Verify(args) => wait(verify::verify(args, &settings()?)),
        Verb::Sync(args) => wait(verify::sync(args, &settings()?)),
        Verb::Tables(args) => wait(tables::tables(args, &settings()?)),
        Verb::Data(args) => wait(data::run(args, &settings()?)),
        Verb::Runs(args) => wait(tables::runs(args, &settings()?)),
        Verb::Workflow(args) => wait(workflow::run(args, &settings()?)),
        Verb::Demo(args) => wait(demo::run(args)),
        Verb::Setup(args) => wait(setup::run(args, &settings()?)),
        Verb::Schema(args) => wait(schema::run(args, &settings()?)),
    }
}

/// Runs a verb to its end on a runtime of its own.
fn wait(verb: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Fault::retry(format!("the runtime does not start: {error}")))?;
    let end = runtime.block_on(verb);
    // What still hangs after the verb's own deadline is not waited for.
    runtime.shutdown_background();
    end
}
