//! Takes everything of ours away again, on either side. The tables and their rows are not ours, and stay.

use tokio_postgres::Client;

use super::{install, journal};
use crate::pg::client::fault;
use crate::pg::quote::{ident, literal, table};
use crate::types::{Fault, TableName};

/// What was set up in the source.
#[derive(Clone, Debug)]
pub struct Source {
    pub slot: String,
    pub publication: String,
    /// Whose rights to read are taken back.
    pub role: Option<String>,
    /// The table of sync states: it stays, and the role's rights on it do not.
    pub state: TableName,
    pub schemas: Vec<String>,
}

/// What to run in the target.
pub const SUPABASE: &str = include_str!("../../sql/teardown/supabase.sql");

pub async fn supabase(client: &Client) -> Result<(), Fault> {
    install::run(client, SUPABASE).await
}

/// Refuses while the slot is in use, before anything is touched.
pub async fn source(client: &Client, what: &Source) -> Result<(), Fault> {
    let active = "select active_pid from pg_catalog.pg_replication_slots where slot_name = $1 and active";
    if let Some(row) = client.query_opt(active, &[&what.slot]).await.map_err(|error| fault(&error))? {
        let pid: Option<i32> = row.try_get(0).map_err(|error| fault(&error))?;
        let by = pid.map(|pid| format!(" by process {pid}")).unwrap_or_default();
        return Err(Fault::stop(
            format!("slot {} is in use{by}", what.slot),
            "stop the Lockstep that reads it, then run this again",
        ));
    }
    if let Some(pid) = journal::reader(client).await? {
        return Err(Fault::stop(
            format!("the journal is read by process {pid}"),
            "stop the Lockstep that reads it, then run this again",
        ));
    }
    for statement in statements(what) {
        client.batch_execute(&statement).await.map_err(|error| fault(&error))?;
    }
    Ok(())
}

/// What to run in the source: each statement is harmless when there is nothing to take away.
pub fn statements(what: &Source) -> Vec<String> {
    let mut out = vec![
        format!(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots\n\
             where slot_name = {} and database = current_database() and plugin = 'pgoutput';",
            literal(&what.slot)
        ),
        format!("drop publication if exists {};", ident(&what.publication)),
        "drop schema if exists lockstep cascade;".to_owned(),
    ];
    if let Some(role) = &what.role {
        let state = table(&what.state);
        out.push(block(&format!(
            "begin\n  if to_regclass({}) is not null then\n    revoke all on {state} from {};\n  end if;\nend",
            literal(&state),
            ident(role)
        )));
        out.extend(what.schemas.iter().map(|schema| revoke(role, schema)));
        out.push(format!("alter role {} noreplication;", ident(role)));
    }
    out
}

/// Default privileges are kept per owner, and who that was is looked up.
fn revoke(role: &str, schema: &str) -> String {
    let find = format!(
        "select distinct pg_get_userbyid(d.defaclrole) from pg_default_acl d, aclexplode(d.defaclacl) a\n    \
         where d.defaclnamespace = to_regnamespace({}) and a.grantee = to_regrole({})",
        literal(&ident(schema)),
        literal(&ident(role))
    );
    let (role, schema) = (ident(role), ident(schema));
    let body = format!(
        "declare\n  owner name;\nbegin\n  revoke select on all tables in schema {schema} from {role};\n  \
         revoke usage on schema {schema} from {role};\n  for owner in {find} loop\n    \
         execute format({}, owner);\n  end loop;\nend",
        // The names in it pass through format() once more.
        literal(&format!(
            "alter default privileges for role %I in schema {} revoke select on tables from {}",
            schema.replace('%', "%%"),
            role.replace('%', "%%")
        ))
    );
    block(&body)
}

/// An anonymous block, whatever stands in it.
fn block(body: &str) -> String {
    let mut tag = "$$".to_owned();
    while body.contains(&tag) {
        tag = format!("$revoke{}$", tag.len());
    }
    format!("do {tag}\n{body}\n{tag};")
}
