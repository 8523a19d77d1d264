//! The table of workflows in the source. It is made when it is not there; one that an earlier system made is adopted:
//! its columns may have other types, and its rows stay. When and what stand together in `action_config`, so that a
//! workflow is one row, and one `insert` writes it.

use std::collections::HashMap;

use serde_json::Value;
use tokio_postgres::Client;

use super::sync_state::{columns, is_text};
use crate::pg::client::fault;
use crate::pg::quote;
use crate::types::{Fault, TableName};

const CREATE: &str = include_str!("../../sql/source/workflows.sql");

/// The SQL that makes it.
pub fn create_sql(table: &TableName) -> String {
    CREATE.replace("{table}", &quote::table(table))
}

/// A row of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    pub id: String,
    pub workflow_name: String,
    pub trigger_table: String,
    pub trigger_event: String,
    /// `None`: not JSON.
    pub action_config: Option<Value>,
    pub enabled: bool,
    pub created_at: Option<String>,
    pub updated_at: Option<String>,
    /// When it was created, where the column knows the instant: microseconds since the Unix epoch.
    pub created_micros: Option<i64>,
}

/// The table as it is.
#[derive(Clone, Debug)]
pub struct Workflows {
    table: TableName,
    /// Type of each column, as a cast spells it.
    columns: HashMap<String, String>,
    /// New rows need an id from us.
    id: bool,
}

/// Without these a row says nothing.
const NEEDED: [&str; 5] = ["id", "workflow_name", "trigger_table", "trigger_event", "action_config"];
/// More workflows than this are a mistake, and not read: all of them are, every second.
pub const MANY: usize = 5000;

/// Whether there is one, of whatever kind.
pub async fn there(client: &Client, table: &TableName) -> Result<bool, Fault> {
    const THERE: &str = "select to_regclass($1::text) is not null";
    client.query_one(THERE, &[&quote::table(table)]).await.map(|row| row.get(0)).map_err(|error| fault(&error))
}

/// Finds the table, or makes it where `create` allows.
pub async fn adopt(client: &Client, table: &TableName, create: bool) -> Result<Workflows, Fault> {
    let mut found = columns(client, table).await?;
    if found.is_empty() {
        let sql = create_sql(table);
        let fix = format!("as the owner of schema {}, and grant all on it to Lockstep's role: {sql}", table.schema);
        if !create {
            return Err(Fault::stop(format!("the source has no table {table}"), fix));
        }
        // Two of our connections may come here at a time.
        let locked = format!("do $$ begin perform pg_advisory_xact_lock(hashtext('lockstep install')); end $$;\n{sql}");
        client.batch_execute(&locked).await.map_err(|error| match fault(&error) {
            Fault::Stop { cause, .. } => Fault::stop(format!("cannot make {table}: {cause}"), fix),
            other => other,
        })?;
        tracing::info!(%table, "made the table of workflows");
        found = columns(client, table).await?;
    }
    if let Some(lacks) = NEEDED.iter().find(|name| !found.contains_key(**name)) {
        let name = quote::table(table);
        let kind = if *lacks == "id" { "uuid not null default gen_random_uuid()" } else { "text" };
        let fix = format!("alter table {name} add column {lacks} {kind}; or name another table: workflows.table");
        return Err(Fault::stop(format!("{table} has no column {lacks}"), fix));
    }
    let id = found.get("id").is_some_and(|(kind, default)| !default && (kind == "uuid" || is_text(kind)));
    let columns = found.into_iter().map(|(name, (kind, _))| (name, kind)).collect();
    Ok(Workflows { table: table.clone(), columns, id })
}

/// Has the table tell the stream when it changes. A role that may not have it looked at every few seconds only.
pub async fn announce(client: &Client, table: &TableName) -> Result<(), Fault> {
    const THERE: &str = "select exists (select from pg_catalog.pg_trigger where tgrelid = $1::text::regclass \
         and tgname = 'lockstep_changed')";
    let name = quote::table(table);
    let there = client.query_one(THERE, &[&name]).await.map_err(|error| fault(&error))?;
    if there.get(0) {
        return Ok(());
    }
    let sql = format!(
        "create trigger lockstep_changed after insert or update or delete on {name} \
         for each statement execute function lockstep.workflows_changed()"
    );
    client.batch_execute(&sql).await.map_err(|error| fault(&error))
}

impl Workflows {
    /// All of them, in the order of their names.
    pub async fn read(&self, client: &Client) -> Result<Vec<Stored>, Fault> {
        self.query(client, None).await
    }

    /// These, as they are now.
    pub async fn some(&self, client: &Client, ids: &[&str]) -> Result<Vec<Stored>, Fault> {
        self.query(client, Some(ids)).await
    }

    async fn query(&self, client: &Client, ids: Option<&[&str]>) -> Result<Vec<Stored>, Fault> {
        let text = |name: &str| match self.columns.contains_key(name) {
            true => format!("{name}::text"),
            false => "null::text".into(),
        };
        let timed = |name: &str| match self.columns.get(name).map(String::as_str) {
            Some("timestamp with time zone") => format!("to_jsonb({name}) #>> '{{}}'"),
            _ => text(name),
        };
        let instant = match self.columns.get("created_at").map(String::as_str) {
            // An instant that no clock shows (infinity, or so far off that it has no microseconds) says nothing.
            Some("timestamp with time zone") => {
                "case when created_at between '0001-01-01 UTC' and '9999-12-31 UTC' \
                 then (extract(epoch from created_at) * 1000000)::int8 end"
            }
            _ => "null::int8",
        };
        let sql = format!(
            "select id::text, workflow_name::text, trigger_table::text, trigger_event::text, action_config::text, {}, \
             {}, {}, {instant} from {} where id is not null and ($1::text[] is null or id::text = any($1)) \
             order by workflow_name::text, id::text limit {MANY}",
            text("enabled"),
            timed("created_at"),
            timed("updated_at"),
            quote::table(&self.table),
        );
        let rows = client.query(&sql, &[&ids]).await.map_err(|error| fault(&error))?;
        let named = |row: &tokio_postgres::Row, at: usize| row.get::<_, Option<String>>(at).unwrap_or_default();
        let stored = rows.iter().map(|row| Stored {
            id: row.get(0),
            workflow_name: named(row, 1),
            trigger_table: named(row, 2),
            trigger_event: named(row, 3),
            action_config: row.get::<_, Option<&str>>(4).and_then(|text| serde_json::from_str(text).ok()),
            enabled: on(row.get(5)),
            created_at: row.get(6),
            updated_at: row.get(7),
            created_micros: row.get(8),
        });
        Ok(stored.collect())
    }

    /// Adds one; says what it is called.
    pub async fn insert(&self, client: &Client, stored: &Stored) -> Result<String, Fault> {
        let mut all = self.values();
        all.extend(self.columns.contains_key("created_at").then_some(("created_at", "clock_timestamp()")));
        all.extend(self.id.then_some(("id", "gen_random_uuid()")));
        let columns: Vec<&str> = all.iter().map(|(column, _)| *column).collect();
        let values: Vec<String> = all.iter().map(|(column, value)| self.cast(column, value)).collect();
        let sql = format!(
            "insert into {} ({}) select {} from {GIVEN} returning id::text",
            quote::table(&self.table),
            columns.join(", "),
            values.join(", ")
        );
        let row = self.run(client, &sql, stored).await?;
        row.map(|row| row.get(0)).ok_or_else(|| Fault::retry("the workflow was not stored: a trigger stopped it"))
    }

    /// Replaces what one says. `false`: there is none.
    pub async fn update(&self, client: &Client, stored: &Stored) -> Result<bool, Fault> {
        let set: Vec<String> =
            self.values().iter().map(|(column, value)| format!("{column} = {}", self.cast(column, value))).collect();
        let table = quote::table(&self.table);
        let sql =
            format!("update {table} w set {} from {GIVEN} where w.id::text = n.id returning n.id", set.join(", "));
        Ok(self.run(client, &sql, stored).await?.is_some())
    }

    async fn run(&self, client: &Client, sql: &str, stored: &Stored) -> Result<Option<tokio_postgres::Row>, Fault> {
        let config = stored.action_config.as_ref().map_or_else(|| "{}".into(), Value::to_string);
        let Stored { id, workflow_name, trigger_table, trigger_event, enabled, .. } = stored;
        let rows = client.query(sql, &[id, workflow_name, trigger_table, trigger_event, &config, enabled]).await;
        Ok(rows.map_err(|error| fault(&error))?.into_iter().next())
    }

    pub async fn enable(&self, client: &Client, id: &str, enabled: bool) -> Result<bool, Fault> {
        if !self.columns.contains_key("enabled") {
            let fix = format!("alter table {} add column enabled boolean default true", quote::table(&self.table));
            return Err(Fault::stop(format!("{} has no column enabled", self.table), fix));
        }
        let at = self.columns.contains_key("updated_at");
        let at =
            if at { format!(", updated_at = {}", self.cast("updated_at", "clock_timestamp()")) } else { "".into() };
        let sql = format!(
            "update {} set enabled = {}{at} where id::text = $1",
            quote::table(&self.table),
            self.cast("enabled", "$2::boolean")
        );
        client.execute(&sql, &[&id, &enabled]).await.map(|rows| rows > 0).map_err(|error| fault(&error))
    }

    pub async fn delete(&self, client: &Client, id: &str) -> Result<bool, Fault> {
        let sql = format!("delete from {} where id::text = $1", quote::table(&self.table));
        client.execute(&sql, &[&id]).await.map(|rows| rows > 0).map_err(|error| fault(&error))
    }

    /// The columns that are there, with what goes into them.
    fn values(&self) -> Vec<(&'static str, &'static str)> {
        const ALL: [(&str, &str); 6] = [
            ("workflow_name", "n.name"),
            ("trigger_table", "n.tab"),
            ("trigger_event", "n.event"),
            ("action_config", "n.config"),
            ("enabled", "n.enabled"),
            ("updated_at", "clock_timestamp()"),
        ];
        ALL.into_iter().filter(|(column, _)| self.columns.contains_key(*column)).collect()
    }

    /// Through text, which every type reads.
    fn cast(&self, column: &str, value: &str) -> String {
        format!("({value})::text::{}", self.columns.get(column).map_or("text", String::as_str))
    }
}

const GIVEN: &str = "(select $1::text as id, $2::text as name, $3::text as tab, $4::text as event, $5::text as config, \
     $6::boolean as enabled) n";

/// An earlier system may have written it as a text; nothing at all means yes.
fn on(text: Option<String>) -> bool {
    text.is_none_or(|text| matches!(text.trim().to_ascii_lowercase().as_str(), "t" | "true" | "1" | "yes" | "on"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enabled_is_read_as_people_write_it() {
        for yes in ["true", "t", "1", "YES", " on "] {
            assert!(on(Some(yes.into())), "{yes}");
        }
        for no in ["false", "f", "0", "no", ""] {
            assert!(!on(Some(no.into())), "{no}");
        }
        assert!(on(None));
    }
}
