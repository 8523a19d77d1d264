//! `lockstep schema`: prints the SQL that creates the chosen tables in Supabase.

use super::Failure;
use super::address::Address;
use crate::config::{Problem, Settings};
use crate::pg::catalog::Selection;
use crate::pg::{self, Url};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The source, as postgresql://user:password@host/database [default: the settings']
    #[arg(long, value_name = "URL")]
    database_url: Option<Address>,
    #[command(flatten)]
    tables: TableArgs,
}

/// Which tables a verb is about; what is not said here is taken from the settings.
#[derive(clap::Args)]
pub(super) struct TableArgs {
    /// Schema whose tables are chosen; may be given more than once
    #[arg(long = "schema", value_name = "NAME")]
    schemas: Vec<String>,
    /// Table to choose instead of all: `name` or `schema.name`, `*` for anything; may be given more than once
    #[arg(long = "table", value_name = "NAME")]
    include: Vec<String>,
    /// Table to leave out, written like --table; may be given more than once
    #[arg(long = "exclude", value_name = "NAME")]
    exclude: Vec<String>,
}

impl TableArgs {
    pub(super) fn selection(self, settings: &Settings) -> Selection {
        let or = |said: Vec<String>, set: &[String]| if said.is_empty() { set.to_vec() } else { said };
        Selection {
            schemas: or(self.schemas, &settings.tables.schemas),
            include: or(self.include, &settings.tables.include),
            exclude: or(self.exclude, &settings.tables.exclude),
        }
    }
}

/// The source that was named, or the settings' one.
pub(super) fn source_url(named: Option<Address>, settings: &Settings) -> Result<Url, Failure> {
    use secrecy::ExposeSecret;
    if let Some(url) = named {
        return Ok(url.read("--database-url")?);
    }
    let url = Url::parse(settings.source.url()?.expose_secret());
    Ok(url.map_err(|cause| Problem::new("DATABASE_URL", cause))?)
}

pub(super) async fn run(args: Args, settings: &Settings) -> Result<(), Failure> {
    let client = pg::connect(&source_url(args.database_url, settings)?, "lockstep schema").await?;
    let sql = crate::schema::sql(&client, &args.tables.selection(settings)).await?;
    print!("{sql}");
    Ok(())
}
