//! `lockstep schema`: prints the SQL that creates the chosen tables in Supabase.

use std::process::ExitCode;

use clap::Args;

use crate::pg::catalog::Selection;
use crate::pg::{self, Url};
use crate::types::Fault;

#[derive(Args)]
pub struct SchemaArgs {
    /// The source: postgresql://user:password@host/database
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_parser = Url::parse)]
    pub database_url: Url,
    #[command(flatten)]
    pub tables: TableArgs,
}

/// Which tables a verb is about.
#[derive(Args, Clone, Debug)]
pub struct TableArgs {
    /// Schema whose tables are chosen; may be given more than once
    #[arg(long = "schema", value_name = "NAME", default_value = "public")]
    pub schemas: Vec<String>,
    /// Table to choose instead of all: `name`, `schema.name`, with `*` for any characters; may be given more than once
    #[arg(long = "table", value_name = "NAME")]
    pub include: Vec<String>,
    /// Table to leave out, written like --table; may be given more than once
    #[arg(long = "exclude", value_name = "NAME")]
    pub exclude: Vec<String>,
}

impl From<TableArgs> for Selection {
    fn from(args: TableArgs) -> Self {
        Self { schemas: args.schemas, include: args.include, exclude: args.exclude }
    }
}

pub async fn run(args: SchemaArgs) -> ExitCode {
    match script(args).await {
        Ok(sql) => {
            print!("{sql}");
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("lockstep schema: {fault}");
            ExitCode::FAILURE
        }
    }
}

async fn script(args: SchemaArgs) -> Result<String, Fault> {
    let client = pg::connect(&args.database_url, "lockstep schema").await?;
    crate::schema::sql(&client, &args.tables.into()).await
}
