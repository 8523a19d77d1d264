//! Installs our SQL in the target, as one script: the same whether it is run by us or pasted by somebody.
//!
//! Tables come by numbered migrations, each of which runs once; functions and rights are made anew at every install.
//! Everything happens in one transaction under one lock, so that two installs at a time, or half of one, cannot be.

use tokio_postgres::Client;

use crate::pg::client::fault;
use crate::types::Fault;

/// A step from one version of our tables to the next. Once released, it never changes.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    pub version: i32,
    pub sql: &'static str,
}

pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sql: include_str!("../../sql/supabase/001_tables.sql") },
    Migration { version: 2, sql: include_str!("../../sql/supabase/002_parked.sql") },
    Migration { version: 3, sql: include_str!("../../sql/supabase/003_shape.sql") },
];

const FUNCTIONS: &str = include_str!("../../sql/supabase/functions.sql");
const QUICK: &str = include_str!("../../sql/supabase/quick.sql");
const PARKED: &str = include_str!("../../sql/supabase/parked.sql");
const EVOLVE: &str = include_str!("../../sql/supabase/evolve.sql");
const STAGE: &str = include_str!("../../sql/supabase/stage.sql");
const DOCTOR: &str = include_str!("../../sql/supabase/doctor.sql");
const DIGEST: &str = include_str!("../../sql/supabase/digest.sql");
const GRANTS: &str = include_str!("../../sql/supabase/grants.sql");

/// What the catalogs of either side say, for `lockstep doctor`: one statement with one parameter, the request. The
/// target has it as a function, the source is asked directly.
pub const FACTS: &str = include_str!("../../sql/doctor/facts.sql");

/// Installs or upgrades. Running it again changes nothing.
pub async fn apply(client: &Client) -> Result<(), Fault> {
    run(client, &script()).await
}

/// Runs a script that is one transaction, and leaves none behind when it fails.
pub(super) async fn run(client: &Client, script: &str) -> Result<(), Fault> {
    let done = client.batch_execute(script).await.map_err(|error| fault(&error));
    if done.is_err() {
        // The script's own error counts, not what becomes of the rollback on a connection that may be gone.
        client.batch_execute("rollback").await.ok();
    }
    done
}

/// The version of our tables in the target; none when they were never installed.
pub async fn installed(client: &Client) -> Result<Option<i32>, Fault> {
    let there = "select to_regclass('lockstep.version') is not null";
    let read = async {
        if !client.query_one(there, &[]).await?.try_get::<_, bool>(0)? {
            return Ok(None);
        }
        client.query_one("select max(version) from lockstep.version", &[]).await?.try_get(0)
    };
    read.await.map_err(|error| fault(&error))
}

/// What to run, or to paste into Supabase's SQL editor.
pub fn script() -> String {
    script_of(MIGRATIONS)
}

/// The script for these migrations, in the order of their versions.
pub fn script_of(migrations: &[Migration]) -> String {
    let newest = migrations.iter().map(|migration| migration.version).max().unwrap_or(0);
    let steps: String = migrations.iter().map(step).collect();
    let refusal = REFUSE_NEWER.replace("{newest}", &newest.to_string());
    let facts = format!(
        "create or replace function lockstep.facts(jsonb) returns jsonb language sql as $facts$\n{FACTS}$facts$;\n"
    );
    format!(
        "{HEAD}{refusal}{steps}\n{FUNCTIONS}\n{QUICK}\n{DIGEST}\n{facts}\n{PARKED}\n{EVOLVE}\n{STAGE}\n{DOCTOR}\n{GRANTS}{TAIL}"
    )
}

const HEAD: &str = "\
-- Installs Lockstep in Supabase: schema lockstep, and three functions in public that only service_role may call.
-- Run it as owner of the database (`postgres`): it may be pasted into the SQL editor as it stands, and run again.
begin;
set local client_min_messages = warning;
set local search_path = pg_catalog;
do $$ begin perform pg_advisory_xact_lock(hashtext('lockstep install')); end $$;

create schema if not exists lockstep;
create table if not exists lockstep.version (
  version int primary key,
  installed_at timestamptz not null default now()
);
";

const REFUSE_NEWER: &str = "
do $$
declare
  here int := (select max(version) from lockstep.version);
begin
  if here > {newest} then
    raise exception 'schema lockstep is at version %, and this Lockstep knows only {newest}', here
      using hint = 'use the Lockstep that installed it, or a newer one';
  end if;
end
$$;
";

fn step(migration: &Migration) -> String {
    let Migration { version, sql } = migration;
    let mut tag = format!("$migration_{version}$");
    while sql.contains(&tag) {
        tag.insert(1, '_');
    }
    format!(
        "
do $step$
begin
  if not exists (select from lockstep.version where version = {version}) then
    execute {tag}
{sql}{tag};
    insert into lockstep.version (version) values ({version});
  end if;
end
$step$;
"
    )
}

const TAIL: &str = "
notify pgrst, 'reload schema';
commit;
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_without_a_gap() {
        let versions: Vec<i32> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert_eq!(versions, (1..=versions.len() as i32).collect::<Vec<_>>());
    }

    #[test]
    fn no_migration_holds_the_quotes_of_the_block_around_it() {
        for Migration { version, sql } in MIGRATIONS {
            assert!(!sql.contains("$step$"), "migration {version}");
        }
    }
}
