//! Turns a change into the runs that it leads to: which workflows match, and what is recorded of it. Pure.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::change::Sides;
use super::condition::Wrong;
use super::row;
use super::rule::{Event, Side, Workflow};
use crate::ledger::workflow_runs::NewRun;
use crate::types::{Cell, Change, Relation, Tuple};

/// Where a change stands in the history, in a way that a restored or promoted source does not repeat.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub commit: u64,
    pub xid: u32,
    pub committed_at: i64,
    /// Its number within its transaction.
    pub index: u64,
}

/// A change as workflows see it: made once, however many look at it.
pub struct Seen {
    pub event: Event,
    /// The rows as they are recorded: shared by the runs that it leads to.
    pub new: Option<Arc<str>>,
    pub old: Option<Arc<str>>,
    pub left_out: Vec<String>,
    pub key: Vec<String>,
    /// What decides, whole.
    pub sides: Sides,
}

/// The relation and the event of a change of one row.
pub fn subject(change: &Change) -> Option<(&Arc<Relation>, Event)> {
    Some(match change {
        Change::Insert { relation, .. } => (relation, Event::Insert),
        Change::Update { relation, .. } => (relation, Event::Update),
        Change::Delete { relation, .. } => (relation, Event::Delete),
        Change::Truncate { .. } | Change::Message { .. } => return None,
    })
}

/// `key`: names of the key's columns.
pub fn see(change: &Change, key: &[String]) -> Option<Seen> {
    let (relation, event) = subject(change)?;
    let (new, old) = match change {
        Change::Insert { new, .. } => (Some(new), None),
        Change::Update { new, old, .. } => (Some(new), old.as_ref()),
        Change::Delete { old, .. } => (None, Some(old)),
        _ => return None,
    };
    let mut left_out = Vec::new();
    let mut read = |side: &str, tuple: &Tuple, only_key: bool| {
        let json = row::to_json(relation, tuple, only_key);
        left_out.extend(json.left_out.iter().map(|column| format!("{side}.{column}")));
        json
    };
    let new_json = new.map(|tuple| read("new", tuple, false));
    let old_json = old.map(|tuple| read("old", tuple, relation.identity != b'f'));
    let sides = Sides::parse(new_json.as_ref().map(row::Json::whole), old_json.as_ref().map(row::Json::whole))?;
    let sides = sides.with(event == Event::Update, Vec::new());
    let key = key_of(relation, new.or(old)?, key);
    let kept = |json: Option<row::Json>| json.map(|json| Arc::from(json.kept));
    Some(Seen { event, new: kept(new_json), old: kept(old_json), left_out, key, sides })
}

fn key_of(relation: &Relation, tuple: &Tuple, names: &[String]) -> Vec<String> {
    let is_key = |column: &crate::types::RelationColumn| match names.is_empty() {
        true => column.key,
        false => names.contains(&column.name),
    };
    let cells = relation.columns.iter().zip(tuple.cells()).filter(|(column, _)| is_key(column));
    cells
        .map(|(_, cell)| match cell {
            Cell::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Cell::Null | Cell::Unchanged => String::new(),
        })
        .collect()
}

/// The run that a change leads to, if the workflow acts on it.
pub fn run(workflow: &Workflow, table: &str, seen: &Seen, place: Place) -> Result<Option<NewRun>, Wrong> {
    // The commit has whole microseconds, and so has the row that was written before it.
    if workflow.since.is_some_and(|since| place.committed_at < since) || !workflow.matches(&seen.sides)? {
        return Ok(None);
    }
    let Place { commit, xid, committed_at, index } = place;
    let id = hash(&["run", &workflow.id, &format!("{commit} {xid} {committed_at} {index}")]);
    let position = format!("{}+{index}", crate::types::Lsn(commit));
    let mut run = record(workflow, Side::Source, table, seen, id);
    (run.position, run.committed_at) = (Some(position), Some(committed_at));
    Ok(Some(run))
}

/// What is recorded of a change for a workflow.
pub fn record(workflow: &Workflow, side: Side, table: &str, seen: &Seen, id: String) -> NewRun {
    let key = serde_json::to_string(&seen.key).unwrap_or_else(|_| "[]".into());
    NewRun {
        id,
        workflow_id: workflow.id.clone(),
        workflow_name: workflow.name.clone(),
        test: false,
        side: side.word(),
        table: table.to_owned(),
        event: seen.event.word(),
        order_key: hash(&["order", &workflow.id, table, &key]),
        key,
        position: None,
        committed_at: None,
        new: seen.new.clone(),
        old: seen.old.clone(),
        left_out: seen.left_out.clone(),
    }
}

/// The first half of a SHA-256 in the form of a uuid. Parts are told apart by their lengths.
pub fn hash(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    uuid(&digest.finalize()[..16])
}

/// A uuid that nobody else has.
pub fn random() -> String {
    let mut bytes = [0; 16];
    // Without the system's random numbers nothing else works either; the clock tells starts apart.
    if getrandom::fill(&mut bytes).is_err() {
        return hash(&[&jiff::Timestamp::now().as_nanosecond().to_string()]);
    }
    uuid(&bytes)
}

/// With the marks of version 8 (RFC 9562): a hash, or random, by a scheme of its own.
fn uuid(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        let byte = match at {
            6 => byte & 0x0f | 0x80,
            8 => byte & 0x3f | 0x80,
            _ => *byte,
        };
        out += &format!("{byte:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_committed_before_a_workflow_was_made_is_none_of_its_business() {
        let stored = crate::ledger::workflows::Stored {
            workflow_name: "w".into(),
            trigger_table: "t".into(),
            trigger_event: "INSERT".into(),
            action_config: Some(serde_json::json!({"type": "notify", "channel": "c"})),
            created_micros: Some(1_000),
            ..Default::default()
        };
        let workflow = Workflow::parse(&stored).unwrap();
        let sides = Sides::parse(Some("{}"), None).unwrap();
        let (new, key) = (Some("{}".into()), vec!["1".to_owned()]);
        let seen = Seen { event: Event::Insert, new, old: None, left_out: Vec::new(), key, sides };
        let at = |committed_at| {
            let place = Place { commit: 1, xid: 1, committed_at, index: 0 };
            run(&workflow, "public.t", &seen, place).unwrap().is_some()
        };
        assert_eq!([999, 1_000, 1_001].map(at), [false, true, true]);
    }

    #[test]
    fn the_same_change_has_the_same_id_and_no_other_has_it() {
        let id = hash(&["run", "w", "1 2 3 4"]);
        assert_eq!(id, hash(&["run", "w", "1 2 3 4"]));
        assert_ne!(id, hash(&["run", "w1", " 2 3 4"]));
        assert_ne!(hash(&["a", "bc"]), hash(&["ab", "c"]));
        assert_eq!((id.len(), id.matches('-').count(), &id[14..15]), (36, 4, "8"));
        assert_ne!(random(), random());
    }
}
