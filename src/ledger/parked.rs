//! The rows that the target refused, as people see them: listed, tried again, discarded. They lie in the target
//! (`sql/supabase/parked.sql`), so this works whether or not the service runs; the service does the work.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::rest::{Body, Client, Failure};
use crate::types::{ParkedAction, ParkedChoice, ParkedRows, ParkedWish};

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

/// Lists them, or does what is wished: the answer then says how many rows it was about.
pub async fn wish(client: &Client, route: &str, wish: &ParkedWish) -> Result<Value, Failure> {
    let request = match wish.action {
        ParkedAction::List { limit } => {
            let mut request = asked(route, "list", &wish.choice);
            request["limit"] = limit.into();
            request
        }
        ParkedAction::Retry => asked(route, "retry", &wish.choice),
        ParkedAction::Discard => asked(route, "discard", &wish.choice),
    };
    client.rpc("lockstep_parked", Body::Json(json!({ "request": request }))).await
}

fn asked(route: &str, action: &str, choice: &ParkedChoice) -> Value {
    let mut request = json!({"route": route, "action": action});
    if let Some(table) = &choice.table {
        request["table"] = json!([table.schema, table.name]);
    }
    if !choice.key.is_empty() {
        request["keys"] = json!([choice.key]);
    }
    request
}
