//! The rows that the target refused, as people see them: listed, tried again, discarded. They lie in the target
//! (`sql/supabase/parked.sql`), so this works whether or not the service runs; the service does the work.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::rest::{Body, Client, Failure};
use crate::types::{ParkedRows, TableName};

/// Which of them: all, those of one table, or one row of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    pub table: Option<TableName>,
    /// The values of the key's columns, as text.
    pub key: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read again from the source and tried at once, not when it is due by itself.
    Retry,
    /// Given up: what the source holds is not written. Counted.
    Discard,
}

/// What is parked.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listing {
    /// The oldest first, up to the limit.
    pub rows: Vec<Entry>,
    /// How many there are, by table.
    pub parked: Vec<ParkedRows>,
    /// Whole tables that are set aside.
    pub tables: Vec<ParkedTable>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    pub schema: String,
    pub table: String,
    pub key: Vec<String>,
    pub key_names: Vec<String>,
    /// `write`, `update` or `delete`.
    pub operation: String,
    pub sqlstate: String,
    pub reason: String,
    /// The row as the target holds it; hidden from a role that may not read the table.
    pub old: Option<Map<String, Value>>,
    /// What was refused.
    pub new: Option<Map<String, Value>>,
    pub position: (u64, u64),
    pub attempts: u64,
    pub first_parked_at: String,
    pub updated_at: String,
    pub next_at: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ParkedTable {
    pub schema: String,
    pub table: String,
    pub reason: String,
}

pub async fn list(client: &Client, route: &str, choice: &Choice, limit: u32) -> Result<Listing, Failure> {
    let mut request = asked(route, "list", choice);
    request["limit"] = limit.into();
    client.rpc("lockstep_parked", Body::Json(json!({ "request": request }))).await
}

/// How many rows it was about.
pub async fn act(client: &Client, route: &str, action: Action, choice: &Choice) -> Result<u64, Failure> {
    #[derive(Deserialize)]
    struct Done {
        rows: u64,
    }
    let word = match action {
        Action::Retry => "retry",
        Action::Discard => "discard",
    };
    let request = json!({ "request": asked(route, word, choice) });
    client.rpc::<Done>("lockstep_parked", Body::Json(request)).await.map(|done| done.rows)
}

fn asked(route: &str, action: &str, choice: &Choice) -> Value {
    let mut request = json!({"route": route, "action": action});
    if let Some(table) = &choice.table {
        request["table"] = json!([table.schema, table.name]);
    }
    if !choice.key.is_empty() {
        request["keys"] = json!([choice.key]);
    }
    request
}
