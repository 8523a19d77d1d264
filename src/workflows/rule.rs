//! A workflow as it is stored and as it is understood, and which changes it acts on. Pure.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::action::{Action, WHEN};
use super::change::Sides;
use super::condition::{Condition, Field, Wrong};
use super::redact;
use super::row::holds_nul;
use super::template::Name;
use crate::ledger::workflows::Stored;
use crate::types::TableName;

#[derive(Clone, Debug, PartialEq)]
pub struct Workflow {
    pub id: String,
    pub name: String,
    pub table: TableName,
    pub event: Event,
    pub side: Side,
    /// An UPDATE counts only when one of them changed; empty: any.
    pub watched: Vec<String>,
    pub condition: Option<Condition>,
    pub action: Action,
    pub enabled: bool,
    /// Changes that were committed before are none of its business: microseconds since the Unix epoch, where known.
    pub since: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    Insert,
    Update,
    Delete,
}

/// Where the change was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Source,
    Target,
}

impl Event {
    pub fn word(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.trim().to_ascii_uppercase().as_str() {
            "INSERT" => Self::Insert,
            "UPDATE" => Self::Update,
            "DELETE" => Self::Delete,
            _ => return None,
        })
    }
}

impl Side {
    pub fn word(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

impl Workflow {
    /// Understands a stored row, or says which field is wrong.
    pub fn parse(stored: &Stored) -> Result<Self, Wrong> {
        let config = stored.action_config.as_ref().and_then(Value::as_object);
        let config = config.ok_or_else(|| Wrong::new("action_config", "is not a JSON object"))?;
        if stored.workflow_name.trim().is_empty() || stored.workflow_name.chars().count() > 255 {
            return Err(Wrong::new("workflow_name", "must have 1 to 255 characters"));
        }
        let table = TableName::parse(stored.trigger_table.trim());
        let fits = |name: &str| (1..=63).contains(&name.len()) && !name.contains('\0');
        if !fits(&table.schema) || !fits(&table.name) {
            return Err(Wrong::new("trigger_table", "must name a table, as agents or schema.agents"));
        }
        let event = Event::parse(&stored.trigger_event)
            .ok_or_else(|| Wrong::new("trigger_event", "must be INSERT, UPDATE or DELETE"))?;
        let side = match config.get("side") {
            None | Some(Value::Null) => Side::Source,
            Some(Value::String(side)) if side == "source" => Side::Source,
            Some(Value::String(side)) if side == "target" => Side::Target,
            Some(_) => return Err(Wrong::new("side", "must be source or target")),
        };
        let watched = watched(config, event)?;
        let condition = config.get("condition").filter(|value| !value.is_null()).map(Condition::parse).transpose()?;
        Ok(Self {
            id: stored.id.clone(),
            name: stored.workflow_name.clone(),
            table,
            event,
            side,
            watched,
            condition,
            action: Action::parse(config)?,
            enabled: stored.enabled,
            since: stored.created_micros,
        })
    }

    /// Whether it acts on a change of its table and event. An error names the field that the change does not tell.
    pub fn matches(&self, change: &Sides) -> Result<bool, Wrong> {
        if !self.watched.is_empty() {
            let mut any = false;
            for column in &self.watched {
                let of = |old| Field { old, column: column.clone() };
                any |= match (change.get(&of(false)), change.get(&of(true))) {
                    (Ok(new), Ok(old)) => new != old,
                    // A large value that the UPDATE left alone.
                    (Err(_), Ok(_)) => false,
                    (_, Err(wrong)) => return Err(wrong),
                };
            }
            if !any {
                return Ok(false);
            }
        }
        self.condition.as_ref().map_or(Ok(true), |condition| condition.holds(change))
    }

    /// Fields of the rows that it needs to know: with those of its templates, or only to decide.
    pub fn fields(&self) -> Vec<Field> {
        let mut fields = self.deciding();
        fields.extend(self.action.names().into_iter().filter_map(|name| match name {
            Name::Field(field) => Some(field),
            _ => None,
        }));
        fields
    }

    fn deciding(&self) -> Vec<Field> {
        let mut fields = self.condition.as_ref().map(Condition::fields).unwrap_or_default();
        for column in &self.watched {
            fields.extend([false, true].map(|old| Field { old, column: column.clone() }));
        }
        fields
    }
}

fn watched(config: &Map<String, Value>, event: Event) -> Result<Vec<String>, Wrong> {
    let wrong = |cause: &str| Wrong::new("watched_columns", cause);
    let list = match config.get("watched_columns") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(wrong("must be a list of column names")),
    };
    let names: Option<Vec<String>> = list.iter().map(|name| name.as_str().map(str::to_owned)).collect();
    let names = names.filter(|names| names.iter().all(|name| !name.is_empty()) && names.len() <= 1600);
    let names = names.ok_or_else(|| wrong("must be a list of column names"))?;
    match names.is_empty() || event == Event::Update {
        true => Ok(names),
        false => Err(wrong("means something only for UPDATE: an inserted or deleted row changes as a whole")),
    }
}

/// What the catalogs say of a table, as far as workflows care.
#[derive(Clone, Debug)]
pub struct Known {
    pub columns: BTreeSet<String>,
    /// The replica identity is full: old rows are told whole.
    pub full: bool,
    /// Columns of the replica identity.
    pub key: BTreeSet<String>,
    /// The stream brings its changes.
    pub published: bool,
}

/// Why a workflow on the source cannot do what it says, judged by the catalogs. `table` is `None` when there is none.
pub fn unfit(workflow: &Workflow, table: Option<&Known>) -> Option<Wrong> {
    if workflow.side == Side::Target {
        return None; // the target's columns are its own
    }
    let name = &workflow.table;
    let Some(known) = table else {
        return Some(Wrong::new("trigger_table", format!("the source has no table {name}")));
    };
    if !known.published {
        let cause = "is not replicated, so nothing tells of its changes: `lockstep tables` says why it is left out";
        return Some(Wrong::new("trigger_table", format!("{name} {cause}")));
    }
    for field in workflow.fields() {
        if !known.columns.contains(&field.column) {
            return Some(Wrong::new(field.name(), format!("{name} has no such column")));
        }
        let told = match (workflow.event, field.old) {
            (Event::Insert, true) => return Some(Wrong::new(field.name(), "an inserted row has no old one")),
            (Event::Delete, false) => return Some(Wrong::new(field.name(), "a deleted row has no new one")),
            (Event::Delete, true) => known.full || known.key.contains(&field.column),
            (Event::Update, true) => known.full,
            (_, false) => true,
        };
        if !told {
            let sql = format!("alter table {} replica identity full", crate::pg::quote::table(name));
            return Some(Wrong::new(field.name(), format!("{name} tells no old values but its key; run: {sql}")));
        }
    }
    None
}

/// Everything that is enabled and understood, as the stream needs it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    source: HashMap<TableName, Vec<Arc<Workflow>>>,
}

impl Rules {
    pub fn new(workflows: impl IntoIterator<Item = Workflow>) -> Self {
        let mut rules = Self::default();
        for workflow in workflows.into_iter().filter(|workflow| workflow.enabled && workflow.side == Side::Source) {
            rules.source.entry(workflow.table.clone()).or_default().push(Arc::new(workflow));
        }
        rules
    }

    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    pub fn of(&self, table: &TableName) -> Option<&[Arc<Workflow>]> {
        self.source.get(table).map(Vec::as_slice)
    }
}

/// A stored workflow as the API shows it: when and what apart, and what is secret by its name hidden. Who may look may
/// not act with the logins of workflows.
pub fn view(stored: &Stored) -> Value {
    let empty = Map::new();
    let config = stored.action_config.as_ref().and_then(Value::as_object).unwrap_or(&empty);
    let action: Map<String, Value> =
        config.iter().filter(|(key, _)| !WHEN.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect();
    let mut action = Value::Object(action);
    redact::action(&mut action);
    json!({
        "id": stored.id,
        "workflow_name": stored.workflow_name,
        "trigger_table": stored.trigger_table,
        "trigger_event": stored.trigger_event,
        "side": config.get("side").and_then(Value::as_str).unwrap_or("source"),
        "watched_columns": config.get("watched_columns").cloned().unwrap_or_else(|| json!([])),
        "condition": config.get("condition").cloned().unwrap_or(Value::Null),
        "action_config": action,
        "enabled": stored.enabled,
        "created_at": stored.created_at,
        "updated_at": stored.updated_at,
    })
}

/// A draft as the API takes it, as a row to store. Nothing is stored that could not be understood.
pub fn draft(id: &str, draft: &Value) -> Result<(Stored, Workflow), Wrong> {
    const KNOWN: [&str; 8] = [
        "workflow_name",
        "trigger_table",
        "trigger_event",
        "side",
        "watched_columns",
        "condition",
        "action_config",
        "enabled",
    ];
    let map = draft.as_object().ok_or_else(|| Wrong::new("body", "is not a JSON object"))?;
    // What a list showed may come back as it was.
    const SHOWN: [&str; 6] = ["id", "created_at", "updated_at", "problem", "runs", "last_run"];
    if let Some(key) = map.keys().find(|key| !KNOWN.contains(&key.as_str()) && !SHOWN.contains(&key.as_str())) {
        return Err(Wrong::new(key, format!("is not known: a workflow has {}", KNOWN.join(", "))));
    }
    let text = |key: &str| match map.get(key) {
        Some(Value::String(text)) if !text.contains('\0') => Ok(text.trim().to_owned()),
        Some(_) => Err(Wrong::new(key, "must be a text")),
        None => Err(Wrong::new(key, "is missing")),
    };
    let mut config = match map.get("action_config") {
        Some(Value::Object(config)) => config.clone(),
        Some(_) => return Err(Wrong::new("action_config", "is not a JSON object")),
        None => return Err(Wrong::new("action_config", "is missing")),
    };
    if text("workflow_name")?.contains(char::is_control) {
        return Err(Wrong::new("workflow_name", "must be one line, without control characters"));
    }
    if holds_nul(&draft.to_string()) {
        return Err(Wrong::new("action_config", "holds the character \\u0000, which Postgres cannot store"));
    }
    for key in WHEN {
        match map.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) if list.is_empty() => _ = config.remove(key),
            Some(Value::String(side)) if key == "side" && side == "source" => _ = config.remove(key),
            Some(value) => _ = config.insert(key.to_owned(), value.clone()),
        }
    }
    let enabled = match map.get("enabled") {
        None | Some(Value::Null) => true,
        Some(Value::Bool(enabled)) => *enabled,
        Some(_) => return Err(Wrong::new("enabled", "must be true or false")),
    };
    let mut stored = Stored {
        id: id.to_owned(),
        workflow_name: text("workflow_name")?,
        trigger_table: text("trigger_table")?,
        trigger_event: text("trigger_event")?,
        action_config: Some(Value::Object(config)),
        enabled,
        ..Stored::default()
    };
    let workflow = Workflow::parse(&stored)?;
    stored.trigger_event = workflow.event.word().into();
    Ok((stored, workflow))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workflow(extra: Value) -> Result<Workflow, Wrong> {
        let mut body = json!({"workflow_name": "n", "trigger_table": "agents", "trigger_event": "update",
            "action_config": {"type": "notify", "channel": "c"}});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        draft("1", &body).map(|(_, workflow)| workflow)
    }

    fn sides(new: &str, old: Option<&str>) -> Sides {
        Sides::parse(Some(new), old).unwrap().with(true, Vec::new())
    }

    #[test]
    fn a_watched_column_must_have_changed_and_without_an_old_row_nobody_guesses() {
        let workflow = workflow(json!({"watched_columns": ["status"]})).unwrap();
        let told = |new, old| workflow.matches(&sides(new, old));
        assert_eq!(told(r#"{"status":"a","n":2}"#, Some(r#"{"status":"b","n":1}"#)), Ok(true));
        assert_eq!(told(r#"{"status":"a","n":2}"#, Some(r#"{"status":"a","n":1}"#)), Ok(false));
        assert_eq!(told(r#"{"n":2}"#, Some(r#"{"status":"a","n":1}"#)), Ok(false), "left alone");
        assert_eq!(told(r#"{"status":"a"}"#, None).unwrap_err().field, "old.status");
    }

    #[test]
    fn a_draft_is_understood_or_the_field_is_named() {
        let whole = workflow(json!({"side": "target", "condition": {"field": "new.a", "op": "is_null"}})).unwrap();
        assert_eq!((whole.side, whole.table.to_string()), (Side::Target, "public.agents".into()));
        for (extra, field) in [
            (json!({"trigger_event": "UPSERT"}), "trigger_event"),
            (json!({"trigger_event": "INSERT", "watched_columns": ["a"]}), "watched_columns"),
            (json!({"watched_columns": "a"}), "watched_columns"),
            (json!({"workflow_name": " "}), "workflow_name"),
            (json!({"workflow_name": 7}), "workflow_name"),
            (json!({"workflow_name": "a\nb"}), "workflow_name"),
            (json!({"workflow_name": "\u{1b}[31m"}), "workflow_name"),
            (json!({"trigger_table": ""}), "trigger_table"),
            (json!({"side": "both"}), "side"),
            (json!({"condition": {"field": "x"}}), "condition.field"),
            (json!({"action_config": []}), "action_config"),
            (json!({"action_config": {"type": "notify", "channel": "\u{0}"}}), "action_config"),
            (json!({"enabled": "yes"}), "enabled"),
            (json!({"trigger": "x"}), "trigger"),
        ] {
            assert_eq!(workflow(extra.clone()).unwrap_err().field, field, "{extra}");
        }
    }

    #[test]
    fn what_the_catalogs_rule_out_is_said_with_its_remedy() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let known = Known { columns: set(&["id", "status"]), full: false, key: set(&["id"]), published: true };
        let watching = workflow(json!({"watched_columns": ["status"]})).unwrap();
        assert!(unfit(&watching, Some(&known)).unwrap().cause.contains("replica identity full"));
        assert_eq!(unfit(&watching, Some(&Known { full: true, ..known.clone() })), None);
        assert_eq!(unfit(&watching, None).unwrap().field, "trigger_table");
        let left_out = Known { full: true, published: false, ..known.clone() };
        assert_eq!(unfit(&watching, Some(&left_out)).unwrap().field, "trigger_table");
        let template = json!({"action_config": {"type": "notify", "channel": "c", "payload": "{{new.nobody}}"}});
        assert_eq!(unfit(&workflow(template).unwrap(), Some(&known)).unwrap().field, "new.nobody");
    }

    #[test]
    fn what_is_shown_is_what_was_drafted() {
        let body = json!({"workflow_name": "n", "trigger_table": "agents", "trigger_event": "UPDATE", "side": "target",
            "watched_columns": ["a"], "condition": {"field": "new.a", "op": "is_null"}, "enabled": false,
            "action_config": {"type": "notify", "channel": "c"}});
        let shown = view(&draft("1", &body).unwrap().0);
        for (key, value) in body.as_object().unwrap() {
            assert_eq!(&shown[key], value, "{key}");
        }
        assert!(draft("1", &shown).is_ok(), "what is shown can be sent back");
    }
}
