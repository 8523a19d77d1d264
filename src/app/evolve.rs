//! Columns that were added at the source follow by themselves, where the settings say so.

use serde::Deserialize;
use serde_json::json;
use tracing::{info, warn};

use super::judge::Finding;
use super::route::ROUTE;
use super::way::{Desk, Way};
use crate::config::Evolve;
use crate::pg;
use crate::rest::Body;
use crate::types::{Fault, Table};

/// What a column that was added at the source must be over there. Its rows from before have the value that the ALTER
/// gave them, which the stream never tells.
const ADDED: &str = "select a.attname::text, format_type(a.atttypid, -1), \
     case when a.atthasmissing then a.attmissingval::text end \
     from pg_attribute a where a.attrelid = $1 and a.attname = any($2) order by a.attnum";

/// Adds columns that the target lacks, where the settings say so. Says whether it did.
pub async fn evolve(desk: &Desk<'_>, tables: &[Table], findings: &[Finding]) -> Result<bool, Fault> {
    let mut evolved = false;
    if desk.settings.schema.evolve != Evolve::Additive || desk.way != Way::Rpc {
        return Ok(false);
    }
    for (table, finding) in tables.iter().zip(findings).filter(|(_, f)| f.begun && !f.missing_columns.is_empty()) {
        let rows = desk.source.query(ADDED, &[&table.oid, &finding.missing_columns]).await;
        let rows = rows.map_err(|error| pg::client::fault(&error))?;
        let columns: Vec<_> = rows
            .iter()
            .map(|row| {
                let (name, kind, old): (String, String, Option<String>) = (row.get(0), row.get(1), row.get(2));
                json!({"name": name, "type": kind, "old": old})
            })
            .collect();
        let request =
            json!({"route": ROUTE, "schema": table.name.schema, "table": table.name.name, "columns": columns});
        let names = finding.missing_columns.join(", ");
        match desk.target.rpc::<Evolved>("lockstep_evolve", Body::Json(json!({ "request": request }))).await {
            Ok(Evolved { refused: None }) => {
                info!(table = %table.name, columns = %names, "added the columns in Supabase too");
                evolved = true;
            }
            // It is set aside then, with the statement that somebody else may run.
            Ok(Evolved { refused: Some(cause) }) => {
                warn!(table = %table.name, columns = %names, %cause, "the columns could not be added in Supabase");
            }
            Err(failure) => return Err(crate::apply::request_fault(&failure, 0)),
        }
    }
    Ok(evolved)
}

#[derive(Deserialize)]
struct Evolved {
    refused: Option<String>,
}
