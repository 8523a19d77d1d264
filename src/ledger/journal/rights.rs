//! Who may make the journal, and what its reader needs.

use tokio_postgres::Client;

use crate::pg::client::fault;
use crate::pg::quote::{ident, table};
use crate::types::{Fault, TableName};

const MAY: &str = "select current_user::text, case when to_regnamespace('lockstep') is null \
       then has_database_privilege(current_database(), 'create') else has_schema_privilege('lockstep', 'create') end, \
     array(select w.t::regclass::text from unnest($1::text[]) w (t) \
       where not has_table_privilege(w.t::regclass, 'trigger') limit 3), \
     array(select w.t::regclass::text from unnest($1::text[]) w (t) \
       where not has_table_privilege(w.t::regclass, 'select') or row_security_active(w.t::regclass) limit 3)";

/// Whether this role may do what a plan says; else who must.
pub async fn allowed(client: &Client, tables: &[TableName]) -> Result<(), Fault> {
    let tables: Vec<String> = tables.iter().map(table).collect();
    let row = client.query_one(MAY, &[&tables]).await.map_err(|error| fault(&error))?;
    let (role, schema, others, blind): (String, bool, Vec<String>, Vec<String>) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    let cause = match (&others[..], &blind[..]) {
        ([], []) if schema => return Ok(()),
        ([], []) => format!("role {role} may not create what the journal needs in schema lockstep of the source"),
        // A trigger function of such a role would fail the writes that it is to watch.
        ([], blind) => {
            format!("role {role} may not read all rows of {}, which the journal's triggers must", blind.join(", "))
        }
        (tables, _) => format!("role {role} may not make triggers on {} at the source", tables.join(", ")),
    };
    let fix = format!("as owner of the tables: lockstep setup source --capture journal --role {role} --apply");
    Err(Fault::stop(cause, fix))
}

/// What the role needs that reads the journal.
pub(super) fn grants(role: &str) -> Vec<String> {
    let role = ident(role);
    vec![format!(
        "grant usage on schema lockstep to {role};\n\
         grant select on lockstep.journal, lockstep.journal_shape, lockstep.journal_state to {role};\n\
         grant execute on function lockstep.journal_mark(text), lockstep.journal_prune(pg_lsn, int), \
         lockstep.journal_shrink(bigint) to {role};"
    )]
}
