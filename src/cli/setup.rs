//! `lockstep setup`: installs what Lockstep needs on either side, prints it, or takes it away again.

use clap::Subcommand;

use super::Failure;
use super::address::Address;
use super::schema::{TableArgs, source_url};
use crate::config::{self, Problem, Settings};
use crate::ledger::{install, journal, source, teardown};
use crate::pg::{self, Client, Url, catalog};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    side: Side,
}

#[derive(Subcommand)]
enum Side {
    /// The target: schema lockstep, its functions, and the right of service_role to call them
    Supabase(SupabaseArgs),
    /// The source: a publication of the tables and a replication slot, or a journal that triggers write; a role's rights
    Source(Box<SourceArgs>),
    /// The way back: triggers in Supabase that tell this Lockstep of changes there (printed, for the SQL editor)
    Webhooks(super::webhooks::Args),
    /// Take away what setup made, on the sides that are named; tables and rows stay
    Teardown(Box<TeardownArgs>),
}

/// Print or do: one of them must be said.
#[derive(clap::Args, Clone, Copy)]
#[group(required = true, multiple = false)]
struct Mode {
    /// Print the SQL, and change nothing
    #[arg(long)]
    print: bool,
    /// Do it now
    #[arg(long)]
    apply: bool,
}

#[derive(clap::Args)]
struct SupabaseArgs {
    #[command(flatten)]
    mode: Mode,
    /// A direct connection to Supabase's Postgres, needed once, for --apply
    #[arg(long, value_name = "URL", env = "SUPABASE_DB_URL", hide_env_values = true)]
    database_url: Option<Address>,
}

#[derive(clap::Args)]
struct SourceArgs {
    #[command(flatten)]
    mode: Mode,
    /// The source, as an administrator [default: the settings']
    #[arg(long, value_name = "URL")]
    database_url: Option<Address>,
    /// How changes will be read [default: the settings']
    #[arg(long, value_name = "WAY")]
    capture: Option<Capture>,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    tables: TableArgs,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Capture {
    /// By a slot if wal_level allows one, else by triggers
    Auto,
    /// By a replication slot
    Wal,
    /// By triggers
    Journal,
}

#[derive(clap::Args)]
struct TeardownArgs {
    #[command(flatten)]
    mode: Mode,
    /// The source, as an administrator
    #[arg(long, value_name = "URL")]
    source_url: Option<Address>,
    /// A direct connection to Supabase's Postgres
    #[arg(long, value_name = "URL")]
    database_url: Option<Address>,
    #[command(flatten)]
    names: Names,
    /// Schema in which --role was given rights [default: the settings']; may be given more than once
    #[arg(long = "schema", value_name = "NAME")]
    schemas: Vec<String>,
}

#[derive(clap::Args)]
struct Names {
    /// The replication slot [default: the settings']
    #[arg(long, value_name = "NAME")]
    slot: Option<String>,
    /// The publication [default: the settings']
    #[arg(long, value_name = "NAME")]
    publication: Option<String>,
    /// An existing role that may read the changes and the tables, write in schema lockstep and in the table of sync
    /// states, and nothing more
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
}

pub(super) async fn run(args: Args, settings: &Settings) -> Result<(), Failure> {
    match args.side {
        Side::Supabase(args) => supabase(args).await,
        Side::Source(args) => source(*args, settings).await,
        Side::Webhooks(args) => super::webhooks::run(&args, settings),
        Side::Teardown(args) => teardown(*args, settings).await,
    }
}

async fn connect(url: &Url) -> Result<Client, Failure> {
    Ok(pg::connect(url, "lockstep setup").await?)
}

async fn supabase(args: SupabaseArgs) -> Result<(), Failure> {
    if args.mode.print {
        print!("{}", install::script());
        return Ok(());
    }
    let url = args.database_url.ok_or_else(|| {
        let cause = "is not given: --apply needs a direct connection (Supabase: Connect > Session pooler); \
                     without one, paste the output of `lockstep setup supabase --print` into the SQL editor";
        Problem::new("--database-url", cause)
    })?;
    let url = url.read("--database-url")?;
    let client = connect(&url).await?;
    let before = install::installed(&client).await?;
    install::apply(&client).await?;
    let after = install::installed(&client).await?.unwrap_or_default();
    match before {
        None => println!("installed in {}: version {after}", url.address()),
        Some(before) if before < after => println!("upgraded in {}: version {before} to {after}", url.address()),
        Some(_) => println!("already installed in {}: version {after}; functions and rights renewed", url.address()),
    }
    Ok(())
}

async fn source(args: SourceArgs, settings: &Settings) -> Result<(), Failure> {
    let url = source_url(args.database_url, settings)?;
    let client = connect(&url).await?;
    let selection = args.tables.selection(settings);
    let mut survey = catalog::survey(&client, &selection).await?;
    let capture = args.capture.unwrap_or(match settings.source.capture {
        config::Capture::Auto => Capture::Auto,
        config::Capture::Wal => Capture::Wal,
        config::Capture::Journal => Capture::Journal,
    });
    let by_journal = match capture {
        Capture::Journal => true,
        Capture::Wal => false,
        Capture::Auto => !source::allows_a_slot(&client).await?,
    };
    if by_journal {
        journal::sort_out(&client, &mut survey, &selection).await?;
    }
    if survey.tables.is_empty() {
        return Err(Problem::new("tables", "the selection holds no table that can be replicated").into());
    }
    let wanted = source::Wanted {
        journal: by_journal,
        publication: args.names.publication.unwrap_or_else(|| settings.source.publication.clone()),
        slot: args.names.slot.unwrap_or_else(|| settings.source.slot.clone()),
        role: args.names.role,
        tables: survey.tables.into_iter().map(|table| table.name).collect(),
        state: settings.state.enabled.then(|| settings.state.table.clone()),
    };
    let found = source::look(&client, &wanted).await?;
    if capture == Capture::Auto && by_journal {
        eprintln!("wal_level is {}: changes are captured by triggers, into a journal", found.wal_level);
    }
    let mut plan = source::plan(&wanted, &found);
    if wanted.journal {
        let journal = journal::plan(&client, &wanted.tables, wanted.role.as_deref()).await?;
        if args.mode.apply {
            journal::allowed(&client, &wanted.tables).await?;
        }
        plan.statements.splice(0..0, journal.statements.iter().map(|sql| format!("begin;\n{sql}\ncommit;")));
    }
    for table in &survey.left_out {
        eprintln!("left out: {table}");
    }
    if args.mode.print {
        if let Some(first) = &plan.first {
            println!("-- before anything else: {}", first.to_string().replace('\n', "\n-- "));
        }
        if plan.statements.is_empty() {
            println!("-- nothing is missing");
        }
    } else {
        source::apply(&client, &plan).await?;
        if plan.statements.is_empty() {
            println!("nothing was missing in {}", url.address());
        }
    }
    plan.statements.iter().for_each(|statement| println!("{statement}"));
    Ok(())
}

async fn teardown(args: TeardownArgs, settings: &Settings) -> Result<(), Failure> {
    let schemas = if args.schemas.is_empty() { settings.tables.schemas.clone() } else { args.schemas };
    let source = teardown::Source {
        slot: args.names.slot.unwrap_or_else(|| settings.source.slot.clone()),
        publication: args.names.publication.unwrap_or_else(|| settings.source.publication.clone()),
        role: args.names.role,
        state: settings.state.table.clone(),
        schemas,
    };
    if args.mode.print {
        println!("-- Takes Lockstep out of the source. Tables and rows stay. Stop Lockstep first.");
        teardown::statements(&source).iter().for_each(|statement| println!("{statement}"));
        print!("\n{}", teardown::SUPABASE);
        return Ok(());
    }
    if args.source_url.is_none() && args.database_url.is_none() {
        let cause = "nothing was named to be taken away: give --source-url, --database-url (Supabase), or both";
        return Err(Problem::new("teardown", cause).into());
    }
    // Both ends are reached before either is touched.
    let source_url = args.source_url.map(|url| url.read("--source-url")).transpose()?;
    let target_url = args.database_url.map(|url| url.read("--database-url")).transpose()?;
    let source_client = match &source_url {
        Some(url) => Some(connect(url).await?),
        None => None,
    };
    let target_client = match &target_url {
        Some(url) => Some(connect(url).await?),
        None => None,
    };
    if let Some(client) = source_client {
        teardown::source(&client, &source).await?;
        println!("the source holds nothing of Lockstep's any more");
    }
    if let Some(client) = target_client {
        teardown::supabase(&client).await?;
        println!("Supabase holds nothing of Lockstep's any more");
    }
    Ok(())
}
