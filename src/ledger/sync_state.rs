//! The table in the source that says of each replicated table where it stands. It is made when it is not there; one
//! that an earlier system made is adopted: its columns may have other types, some may be missing, and its rows stay.

use std::collections::HashMap;

use jiff::Timestamp;
use tokio_postgres::Client;

use crate::pg::client::fault;
use crate::pg::quote;
use crate::types::{Fault, TableName};

const CREATE: &str = include_str!("../../sql/source/state.sql");

/// The SQL that makes it.
pub fn create_sql(table: &TableName) -> String {
    CREATE.replace("{table}", &quote::table(table))
}

/// What is written of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// As the row is called.
    pub name: String,
    pub status: &'static str,
    pub error: Option<String>,
    pub records: i64,
    /// Everything that was committed before is in the target. `None` leaves what is there.
    pub synced_at: Option<Timestamp>,
}

/// The table as it is, and what it held when it was found.
pub struct SyncState {
    table: TableName,
    /// Type of each column, as a cast spells it.
    columns: HashMap<String, String>,
    /// Whether new rows need an id from us.
    id: bool,
    /// By name: how many records it says were synced.
    pub rows: HashMap<String, i64>,
}

/// Every statement on it ends soon, whoever holds a lock on it.
pub const SESSION: &str = "set lock_timeout = '2s'; set statement_timeout = '10s'";

const COLUMNS: &str = "select a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), \
       a.atthasdef or a.attidentity <> '' \
     from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid \
     join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
     where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''";

/// Finds the table, or makes it where `create` allows.
pub async fn adopt(client: &Client, table: &TableName, create: bool) -> Result<SyncState, Fault> {
    let mut found = columns(client, table).await?;
    if found.is_empty() {
        let sql = create_sql(table);
        let fix = format!("as the owner of schema {}, and grant all on it to Lockstep's role: {sql}", table.schema);
        if !create {
            return Err(Fault::stop(format!("the source has no table {table}"), fix));
        }
        client.batch_execute(&sql).await.map_err(|error| match fault(&error) {
            Fault::Stop { cause, .. } => Fault::stop(format!("cannot make {table}: {cause}"), fix),
            other => other,
        })?;
        tracing::info!(%table, "made the table of sync states");
        found = columns(client, table).await?;
    }
    if let Some(lacks) = ["table_name", "sync_status"].iter().find(|name| !found.contains_key(**name)) {
        let fix =
            format!("alter table {} add column {lacks} text; or name another table: state.table", quote::table(table));
        return Err(Fault::stop(format!("{table} has no column {lacks}"), fix));
    }
    let id = found.get("id").is_some_and(|(kind, default)| !default && (kind == "uuid" || is_text(kind)));
    let columns = found.into_iter().map(|(name, (kind, _))| (name, kind)).collect();
    let mut state = SyncState { table: table.clone(), columns, id, rows: HashMap::new() };
    state.rows = state.read(client).await?;
    Ok(state)
}

/// Type, and whether it has a default.
pub(super) async fn columns(client: &Client, table: &TableName) -> Result<HashMap<String, (String, bool)>, Fault> {
    let rows = client.query(COLUMNS, &[&table.schema, &table.name]).await.map_err(|error| fault(&error))?;
    Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
}

pub(super) fn is_text(kind: &str) -> bool {
    kind == "text" || kind.starts_with("character")
}

impl SyncState {
    /// What a table is called here: as a row has it already, else without the schema that everybody means.
    pub fn name_of(&self, table: &TableName) -> String {
        let full = table.to_string();
        let bare = table.schema == "public" && !table.name.contains('.');
        match bare && !self.rows.contains_key(&full) {
            true => table.name.clone(),
            false => full,
        }
    }

    async fn read(&self, client: &Client) -> Result<HashMap<String, i64>, Fault> {
        let records = match self.columns.contains_key("records_synced") {
            // Somebody's text need not be a number.
            true => r"coalesce(substring(records_synced::text from '^\s*(\d{1,15})'), '0')::int8",
            false => "0::int8",
        };
        let table = quote::table(&self.table);
        let sql = format!("select table_name::text, {records} from {table} where table_name is not null");
        let rows = client.query(&sql, &[]).await.map_err(|error| fault(&error))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Of every row that says `completed` or `in_progress` and is not named here: nobody knows that any more.
    pub async fn disown(
        &self,
        client: &Client,
        ours: &[String],
        status: &str,
        why: Option<&str>,
    ) -> Result<u64, Fault> {
        let mut set = vec![self.set("sync_status", "$2")];
        set.extend(self.columns.contains_key("error_message").then(|| self.set("error_message", "$3::text")));
        set.extend(self.columns.contains_key("updated_at").then(|| self.set("updated_at", "clock_timestamp()")));
        let sql = format!(
            "update {} s set {} where s.table_name::text <> all ($1::text[]) \
               and s.sync_status::text in ('completed', 'in_progress') and s.sync_status::text <> $2::text \
               and ($3::text is null or true)",
            quote::table(&self.table),
            set.join(", ")
        );
        client.execute(&sql, &[&ours, &status, &why]).await.map_err(|error| fault(&error))
    }

    /// Writes rows: those that are there are updated, the others added.
    pub async fn write(&mut self, client: &Client, rows: &[Row]) -> Result<(), Fault> {
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        let statuses: Vec<&str> = rows.iter().map(|row| row.status).collect();
        let errors: Vec<Option<&str>> = rows.iter().map(|row| row.error.as_deref()).collect();
        let records: Vec<i64> = rows.iter().map(|row| row.records).collect();
        let synced: Vec<Option<String>> = rows.iter().map(|row| row.synced_at.map(|at| at.to_string())).collect();
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 5] = [&names, &statuses, &errors, &records, &synced];
        client.execute(&self.update(), &values).await.map_err(|error| fault(&error))?;
        if names.iter().any(|name| !self.rows.contains_key(*name)) {
            client.execute(&self.insert(), &values).await.map_err(|error| fault(&error))?;
        }
        self.rows.extend(rows.iter().map(|row| (row.name.clone(), row.records)));
        Ok(())
    }

    fn update(&self) -> String {
        let set: Vec<String> = self.values().into_iter().map(|(column, value)| self.set(column, value)).collect();
        let table = quote::table(&self.table);
        format!("{NEW} update {table} s set {} from new n where s.table_name::text = n.name", set.join(", "))
    }

    fn insert(&self) -> String {
        let mut all = self.values();
        all.push(("table_name", "n.name"));
        all.extend(self.columns.contains_key("created_at").then_some(("created_at", "clock_timestamp()")));
        all.extend(self.id.then_some(("id", "gen_random_uuid()")));
        let columns: Vec<&str> = all.iter().map(|(column, _)| *column).collect();
        let values: Vec<String> = all.iter().map(|(column, value)| self.cast(column, value)).collect();
        let table = quote::table(&self.table);
        format!(
            "{NEW} insert into {table} as s ({}) select {} from new n \
             where not exists (select from {table} s where s.table_name::text = n.name)",
            columns.join(", "),
            values.join(", ")
        )
    }

    /// The columns that are there, with what goes into them: as it was where nothing new is known.
    fn values(&self) -> Vec<(&'static str, &'static str)> {
        const ALL: [(&str, &str); 6] = [
            ("sync_status", "n.status"),
            ("error_message", "n.error"),
            ("records_synced", "least(n.records, 2147483647)"), // an integer, as its users know it
            ("last_sync_at", "n.synced"),
            ("last_sync_direction", "case when n.synced is not null then 'to_supabase' end"),
            ("updated_at", "clock_timestamp()"),
        ];
        ALL.into_iter().filter(|(column, _)| self.columns.contains_key(*column)).collect()
    }

    fn set(&self, column: &str, value: &str) -> String {
        let cast = self.cast(column, value);
        match column {
            "last_sync_at" | "last_sync_direction" => format!("{column} = coalesce({cast}, s.{column})"),
            _ => format!("{column} = {cast}"),
        }
    }

    /// Through text, which every type reads.
    fn cast(&self, column: &str, value: &str) -> String {
        format!("({value})::text::{}", self.columns.get(column).map_or("text", String::as_str))
    }
}

const NEW: &str = "with new (name, status, error, records, synced) as \
     (select * from unnest($1::text[], $2::text[], $3::text[], $4::int8[], $5::text[]))";

#[cfg(test)]
mod tests {
    use super::*;

    fn state(rows: &[&str]) -> SyncState {
        let rows = rows.iter().map(|name| ((*name).to_owned(), 0)).collect();
        SyncState { table: TableName::new("public", "s"), columns: HashMap::new(), id: false, rows }
    }

    #[test]
    fn a_table_is_called_as_its_row_calls_it_and_else_without_the_usual_schema() {
        let agents = TableName::new("public", "agents");
        assert_eq!(state(&[]).name_of(&agents), "agents");
        assert_eq!(state(&["agents"]).name_of(&agents), "agents");
        assert_eq!(state(&["public.agents"]).name_of(&agents), "public.agents");
        assert_eq!(state(&[]).name_of(&TableName::new("sales", "agents")), "sales.agents");
        assert_eq!(state(&[]).name_of(&TableName::new("public", "sales.agents")), "public.sales.agents");
    }
}
