//! Looks at a table through plain PostgREST before anything is written: requests that write nothing are refused for the
//! same reasons as those that do.

use bytes::Bytes;

use super::form::Form;
use super::words;
use crate::apply::shape::Mapped;
use crate::rest::{Class, Client, Failure, TableRequest, Verb};
use crate::types::{Fault, Table, TableName};

/// What was found out about one table.
#[derive(Debug, Default)]
pub struct Probed {
    pub exists: bool,
    /// It holds no row.
    pub empty: bool,
    pub missing_columns: Vec<String>,
    pub missing_rights: Vec<&'static str>,
    pub has_key: bool,
    /// A column that no insert may set, and the statement that changes that.
    pub unwritable: Option<(String, String)>,
}

pub async fn probe(client: &Client, table: &Table) -> Result<Probed, Fault> {
    let form = form(table);
    let mut found = Probed { exists: true, has_key: true, ..Probed::default() };
    write(client, table, &form, &mut found).await?;
    if !found.exists {
        return Ok(found);
    }
    let query = format!("select={}&limit=1", form.key_columns());
    match ask(client, &table.name, Verb::Read, query, "").await? {
        Ok(body) => found.empty = body.iter().filter(|byte| !byte.is_ascii_whitespace()).eq(b"[]"),
        Err(failure) => found.take(&failure, &table.name, &["select"])?,
    }
    // No row is both.
    match ask(client, &table.name, Verb::Delete, form.nothing(), "").await? {
        Ok(_) => {}
        Err(failure) => found.take(&failure, &table.name, &["delete"])?,
    }
    Ok(found)
}

/// An upsert of no rows. PostgREST and Postgres look at columns, key and rights all the same.
async fn write(client: &Client, table: &Table, form: &Form, found: &mut Probed) -> Result<(), Fault> {
    let mut columns: Vec<usize> = (0..table.columns.len()).collect();
    loop {
        let list = form.columns(&columns).map(|list| format!("&columns={list}")).unwrap_or_default();
        let query = format!("on_conflict={}{list}", form.key_columns());
        let Err(failure) = ask(client, &table.name, Verb::Upsert, query, "[]").await? else { return Ok(()) };
        let missing = match failure.code.as_deref() {
            // The message of 12 and the one of 14 both quote the column, each with other words around it.
            Some("PGRST204" | "42703") => columns.iter().position(|&at| names(&failure, &table.columns[at].name)),
            _ => None,
        };
        match missing {
            Some(at) if columns.len() > 1 => found.missing_columns.push(table.columns[columns.remove(at)].name.clone()),
            _ => return found.take(&failure, &table.name, &["insert", "update"]),
        }
    }
}

/// Whether the message is about this column.
fn names(failure: &Failure, column: &str) -> bool {
    ['\'', '"'].iter().any(|quote| failure.message.contains(&format!("{quote}{column}{quote}")))
}

impl Probed {
    /// Notes what a refusal says. What is about no single table is a fault.
    fn take(&mut self, failure: &Failure, table: &TableName, rights: &[&'static str]) -> Result<(), Fault> {
        match (failure.code.as_deref(), failure.status) {
            (Some("PGRST205" | "42P01"), _) | (None, Some(404)) => self.exists = false,
            (Some("42P10"), _) => self.has_key = false,
            (Some("42501"), _) => self.missing_rights.extend(rights),
            (Some("428C9"), _) => {
                let column = words::between(&failure.message, "column \"", "\"").unwrap_or("…");
                self.unwritable = Some((column.to_owned(), words::writable(table, column, failure)));
            }
            _ => return Err(words::setup(failure, table, 0)),
        }
        Ok(())
    }
}

async fn ask(
    client: &Client,
    table: &TableName,
    verb: Verb,
    query: String,
    body: &'static str,
) -> Result<Result<Bytes, Failure>, Fault> {
    let body = Bytes::from_static(body.as_bytes());
    match client.table(&TableRequest { verb, table: table.clone(), query, body }).await {
        Ok(answer) => Ok(Ok(answer.body)),
        Err(failure) if failure.class == Class::Transient => {
            Err(Fault::retry(format!("Supabase does not answer: {failure}")))
        }
        Err(failure) => Ok(Err(failure)),
    }
}

/// The table's rows as the source's catalogs have them.
fn form(table: &Table) -> Form {
    let place = |name: &String| table.columns.iter().position(|column| &column.name == name);
    let mapped = Mapped {
        table: table.name.clone(),
        key_names: table.key.clone(),
        key: table.key.iter().filter_map(place).collect(),
        columns: table.columns.iter().map(|column| column.name.clone()).enumerate().collect(),
    };
    Form { mapped: mapped.into(), json: vec![None; table.columns.len()], oid: table.oid }
}
