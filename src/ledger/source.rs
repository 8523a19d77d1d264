//! What the source needs before changes can be read: a publication of the chosen tables, a slot, and, if a role is
//! named, the rights that reading takes and no more.
//!
//! `look` reads what is there, `plan` says what is missing as SQL, which is printed or run.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use super::sync_state;
use crate::pg::client::fault;
use crate::pg::quote::{ident, table};
use crate::remedy::{self, PUBLISH_ALL};
use crate::types::{Fault, TableName};

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub publication: String,
    pub slot: String,
    /// Neither of the two: triggers write a journal (`ledger::journal`).
    pub journal: bool,
    /// Who will read; none leaves rights alone.
    pub role: Option<String>,
    pub tables: Vec<TableName>,
    /// The table of sync states, if one is kept.
    pub state: Option<TableName>,
}

/// What is there.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub server_version: i32,
    pub wal_level: String,
    pub database: String,
    pub publication: Option<Publication>,
    pub slot: Option<Slot>,
    pub role: Option<Role>,
}

#[derive(Clone, Debug)]
pub struct Publication {
    pub all_tables: bool,
    pub via_root: bool,
    pub all_changes: bool,
    pub tables: BTreeSet<TableName>,
}

#[derive(Clone, Debug)]
pub struct Slot {
    pub plugin: Option<String>,
    pub database: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Role {
    pub login: bool,
    pub replication: bool,
    pub lacks_usage: Vec<String>,
    pub lacks_select: Vec<TableName>,
    /// Owner and schema whose future tables the role could not read.
    pub lacks_future: Vec<(String, String)>,
    /// Schema `lockstep`, where runs and the like are remembered.
    pub memory: Place,
    /// The table of sync states.
    pub state: Place,
}

/// A place that the role is to write in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    #[default]
    Missing,
    /// It is there, and the role may not do all that it must.
    Closed,
    Open,
}

/// What to do, in order; and what somebody must do before any of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub first: Option<Fault>,
    pub statements: Vec<String>,
}

/// Does what the plan says. Statements stand alone: a slot cannot be made in a transaction that has written.
pub async fn apply(client: &Client, plan: &Plan) -> Result<(), Fault> {
    if let Some(obstacle) = &plan.first {
        return Err(obstacle.clone());
    }
    for statement in &plan.statements {
        client.batch_execute(statement).await.map_err(|error| fault(&error))?;
    }
    Ok(())
}

/// What is missing. With nothing missing the plan is empty.
pub fn plan(wanted: &Wanted, found: &Found) -> Plan {
    let mut statements = Vec::new();
    // The publication comes before the slot: the slot reads the catalogs as they were when a change was made.
    if !wanted.journal {
        statements.extend(publication(wanted, found.publication.as_ref()));
    }
    if let (Some(name), Some(role)) = (&wanted.role, &found.role) {
        statements.extend(rights(name, role, !wanted.journal));
        statements.extend(memory(name, role, wanted.state.as_ref()));
    }
    if found.slot.is_none() && !wanted.journal {
        let version = u32::try_from(found.server_version).unwrap_or(0);
        statements.push(format!("{};", remedy::create_slot(&wanted.slot, version)));
    }
    Plan { first: obstacle(wanted, found), statements }
}

fn obstacle(wanted: &Wanted, found: &Found) -> Option<Fault> {
    if found.wal_level != "logical" && !wanted.journal {
        return Some(Fault::stop(
            format!("wal_level is {}, and changes can only be read at level logical", found.wal_level),
            format!(
                "{}; {}; or let triggers write a journal: --capture journal (source.capture = \"journal\")",
                remedy::WAL_LEVEL,
                remedy::RESTART
            ),
        ));
    }
    if let (Some(role), None) = (&wanted.role, &found.role) {
        return Some(Fault::stop(
            format!("there is no role {role}"),
            format!("create role {} login replication password '…';", ident(role)),
        ));
    }
    let slot = found.slot.as_ref().filter(|_| !wanted.journal)?;
    if slot.plugin.as_deref() != Some("pgoutput") {
        return Some(Fault::stop(
            format!("slot {} is there, but it is not a logical slot of plugin pgoutput", wanted.slot),
            "choose another name with --slot",
        ));
    }
    if slot.database.as_ref() != Some(&found.database) {
        let other = slot.database.as_deref().unwrap_or("another database");
        return Some(Fault::stop(
            format!("slot {} belongs to database {other}, not to {}", wanted.slot, found.database),
            "choose another name with --slot",
        ));
    }
    None
}

/// `only`, since children by inheritance are tables of their own and named themselves.
fn publication(wanted: &Wanted, found: Option<&Publication>) -> Vec<String> {
    let name = ident(&wanted.publication);
    let tables: Vec<String> = wanted.tables.iter().map(|name| format!("only {}", table(name))).collect();
    let tables = tables.join(", ");
    let Some(found) = found else {
        return vec![format!("create publication {name} for table {tables} with ({PUBLISH_ALL});")];
    };
    let mut statements = Vec::new();
    let same = found.tables.iter().eq(wanted.tables.iter().collect::<BTreeSet<_>>());
    if !found.all_tables && !same {
        statements.push(format!("alter publication {name} set table {tables};"));
    }
    if !found.via_root || !found.all_changes {
        statements.push(format!("alter publication {name} set ({PUBLISH_ALL});"));
    }
    statements
}

fn rights(name: &str, role: &Role, replication: bool) -> Vec<String> {
    let name = ident(name);
    let mut statements = Vec::new();
    if replication && (!role.login || !role.replication) {
        statements.push(format!("alter role {name} with login replication;"));
    } else if !role.login {
        statements.push(format!("alter role {name} with login;"));
    }
    for schema in &role.lacks_usage {
        statements.push(format!("grant usage on schema {} to {name};", ident(schema)));
    }
    for lacking in &role.lacks_select {
        statements.push(format!("grant select on {} to {name};", table(lacking)));
    }
    for (owner, schema) in &role.lacks_future {
        let (owner, schema) = (ident(owner), ident(schema));
        statements.push(format!(
            "alter default privileges for role {owner} in schema {schema} grant select on tables to {name};"
        ));
    }
    statements
}

/// What Lockstep remembers about its work: a role that may only read could not.
fn memory(name: &str, role: &Role, state: Option<&TableName>) -> Vec<String> {
    let name = ident(name);
    let mut statements = Vec::new();
    if role.memory == Place::Missing {
        statements.push("create schema if not exists lockstep;".to_owned());
    }
    if role.memory != Place::Open {
        statements.push(format!("grant usage, create on schema lockstep to {name};"));
        statements.push(format!("grant select, insert, update, delete on all tables in schema lockstep to {name};"));
        statements.push(format!("grant usage on all sequences in schema lockstep to {name};"));
    }
    let Some(state) = state else { return statements };
    if role.state == Place::Missing {
        statements.push(sync_state::create_sql(state).trim_end().to_owned());
    }
    if role.state != Place::Open {
        statements.push(format!("grant select, insert, update on {} to {name};", table(state)));
    }
    statements
}

/// Whether the source can have a logical slot at all.
pub async fn allows_a_slot(client: &Client) -> Result<bool, Fault> {
    let row = client.query_one("select current_setting('wal_level') = 'logical'", &[]).await;
    Ok(row.map_err(|error| fault(&error))?.get(0))
}

/// Looks at what is there.
pub async fn look(client: &Client, wanted: &Wanted) -> Result<Found, Fault> {
    read(client, wanted).await.map_err(|error| fault(&error))
}

async fn read(client: &Client, wanted: &Wanted) -> Result<Found, tokio_postgres::Error> {
    let server = client.query_one(SERVER, &[]).await?;
    let mut found = Found {
        server_version: server.try_get(0)?,
        wal_level: server.try_get(1)?,
        database: server.try_get(2)?,
        ..Found::default()
    };
    if let Some(row) = client.query_opt(PUBLICATION, &[&wanted.publication]).await? {
        let mut tables = BTreeSet::new();
        for row in client.query(PUBLISHED, &[&wanted.publication]).await? {
            tables.insert(TableName { schema: row.try_get(0)?, name: row.try_get(1)? });
        }
        found.publication = Some(Publication {
            all_tables: row.try_get(0)?,
            via_root: row.try_get(1)?,
            all_changes: row.try_get(2)?,
            tables,
        });
    }
    if let Some(row) = client.query_opt(SLOT, &[&wanted.slot]).await? {
        found.slot = Some(Slot { plugin: row.try_get(0)?, database: row.try_get(1)? });
    }
    if let Some(role) = &wanted.role {
        found.role = read_role(client, role, wanted).await?;
    }
    Ok(found)
}

const SERVER: &str =
    "select current_setting('server_version_num')::int, current_setting('wal_level'), current_database()::text";

const PUBLICATION: &str = "
select puballtables, pubviaroot, pubinsert and pubupdate and pubdelete and pubtruncate
from pg_catalog.pg_publication where pubname = $1";

const PUBLISHED: &str = "
select n.nspname::text, c.relname::text
from pg_catalog.pg_publication p
join pg_catalog.pg_publication_rel r on r.prpubid = p.oid
join pg_catalog.pg_class c on c.oid = r.prrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where p.pubname = $1";

const SLOT: &str = "select plugin::text, database::text from pg_catalog.pg_replication_slots where slot_name = $1";

/// Schema `lockstep`, the table $2.$3: whether each is there, and whether the role may do there what it must.
const MEMORY: &str = "
select to_regnamespace('lockstep') is not null,
       coalesce(has_schema_privilege($1, to_regnamespace('lockstep'), 'usage')
                and has_schema_privilege($1, to_regnamespace('lockstep'), 'create'), false)
       and not exists (select from pg_catalog.pg_class c, unnest(array['select', 'insert', 'update', 'delete']) need
                       where c.relnamespace = to_regnamespace('lockstep') and c.relkind in ('r', 'p')
                         and not has_table_privilege($1, c.oid, need)),
       s.oid is not null,
       s.oid is not null and has_table_privilege($1, s.oid, 'select') and has_table_privilege($1, s.oid, 'insert')
       and has_table_privilege($1, s.oid, 'update')
from (values (1)) one
left join (select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
           where n.nspname = $2 and c.relname = $3) s on true";

async fn read_role(client: &Client, role: &str, wanted: &Wanted) -> Result<Option<Role>, tokio_postgres::Error> {
    let tables = &wanted.tables;
    let attributes = "select rolcanlogin, rolreplication or rolsuper from pg_catalog.pg_roles where rolname = $1";
    let Some(row) = client.query_opt(attributes, &[&role]).await? else { return Ok(None) };
    let mut found = Role { login: row.try_get(0)?, replication: row.try_get(1)?, ..Role::default() };
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let mut without_usage = BTreeSet::new();
    let mut without_future = BTreeSet::new();
    for row in client.query(RIGHTS, &[&role, &schemas, &names]).await? {
        let name = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
        if row.try_get(4)? {
            without_future.insert((row.try_get(5)?, name.schema.clone()));
        }
        if row.try_get(2)? {
            without_usage.insert(name.schema.clone());
        }
        if row.try_get(3)? {
            found.lacks_select.push(name);
        }
    }
    let (schema, name) = wanted.state.as_ref().map_or(("", ""), |state| (&state.schema, &state.name));
    let row = client.query_one(MEMORY, &[&role, &schema, &name]).await?;
    let place = |there: bool, open: bool| match (there, open) {
        (false, _) => Place::Missing,
        (true, false) => Place::Closed,
        (true, true) => Place::Open,
    };
    found.memory = place(row.try_get(0)?, row.try_get(1)?);
    found.state = place(row.try_get(2)?, row.try_get(3)?);
    found.lacks_usage = without_usage.into_iter().collect();
    found.lacks_future = without_future.into_iter().collect();
    Ok(Some(found))
}

const RIGHTS: &str = "
select n.nspname::text, c.relname::text,
       not has_schema_privilege($1, n.oid, 'usage'),
       not has_table_privilege($1, c.oid, 'select'),
       not r.rolsuper and not exists (
           select from pg_catalog.pg_default_acl d, aclexplode(d.defaclacl) a
           where d.defaclrole = c.relowner and d.defaclnamespace = n.oid and d.defaclobjtype = 'r'
             and a.grantee = r.oid and a.privilege_type = 'SELECT'),
       pg_get_userbyid(c.relowner)::text
from unnest($2::text[], $3::text[]) w (schema, name)
join pg_catalog.pg_namespace n on n.nspname = w.schema
join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = w.name
join pg_catalog.pg_roles r on r.rolname = $1
order by 1, 2";

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        let tables = vec![TableName::new("public", "a"), TableName::new("x", "B\"c")];
        Wanted { publication: "Pub".into(), slot: "it's".into(), journal: false, role: None, tables, state: None }
    }

    fn ready() -> Found {
        let publication = Publication {
            all_tables: false,
            via_root: true,
            all_changes: true,
            tables: wanted().tables.into_iter().collect(),
        };
        Found {
            server_version: 150_000,
            wal_level: "logical".into(),
            database: "db".into(),
            publication: Some(publication),
            slot: Some(Slot { plugin: Some("pgoutput".into()), database: Some("db".into()) }),
            role: None,
        }
    }

    #[test]
    fn nothing_is_done_twice() {
        assert_eq!(plan(&wanted(), &ready()), Plan::default());
    }

    #[test]
    fn names_stay_in_their_quotes_and_the_publication_comes_first() {
        let found = Found { publication: None, slot: None, server_version: 170_002, ..ready() };
        let Plan { first, statements } = plan(&wanted(), &found);
        assert_eq!(first, None);
        assert!(
            statements[0].starts_with(r#"create publication "Pub" for table only "public"."a", only "x"."B""c" with"#)
        );
        assert_eq!(statements[1], "select pg_create_logical_replication_slot('it''s', 'pgoutput', failover => true);");
    }

    #[test]
    fn what_somebody_must_do_first_is_said_with_its_fix() {
        let found = Found { wal_level: "replica".into(), ..ready() };
        let first = plan(&wanted(), &found).first.unwrap().to_string();
        assert!(first.contains("wal_level is replica") && first.contains("alter system set wal_level"), "{first}");
        let with_role = Wanted { role: Some("reader".into()), ..wanted() };
        let first = plan(&with_role, &ready()).first.unwrap().to_string();
        assert!(first.contains("create role \"reader\" login replication"), "{first}");
        let foreign = Slot { plugin: Some("wal2json".into()), database: Some("db".into()) };
        let first = plan(&wanted(), &Found { slot: Some(foreign), ..ready() }).first.unwrap().to_string();
        assert!(first.contains("not a logical slot of plugin pgoutput"), "{first}");
    }
}
