//! Reads what one of Supabase's Database Webhooks tells. A row stays the text that it was: no number passes through a
//! float. Pure.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::condition::Wrong;
use super::row::{holds_nul, string};
use super::rule::Event;
use crate::types::TableName;

pub struct Told {
    pub table: TableName,
    pub event: Event,
    pub new: Option<String>,
    pub old: Option<String>,
}

type Object = BTreeMap<String, Box<RawValue>>;

/// Rows nest as deep as the JSON in their columns does; whoever reads a run has to follow.
const DEEPEST: usize = 100;

pub fn told(payload: &str) -> Result<Told, Wrong> {
    if depth(payload) > DEEPEST {
        return Err(Wrong::new("body", format!("is nested deeper than {DEEPEST} levels")));
    }
    let map: Object = serde_json::from_str(payload).map_err(|_| Wrong::new("body", "is not a JSON object"))?;
    let text = |key: &str| match map.get(key).map(|raw| serde_json::from_str::<String>(raw.get())) {
        Some(Ok(text)) if !text.is_empty() && text.len() <= 255 && !text.contains('\0') => Ok(text),
        Some(_) => Err(Wrong::new(key, "must be a text of 1 to 255 bytes")),
        None => Err(Wrong::new(key, "is missing")),
    };
    let event = Event::parse(&text("type")?).ok_or_else(|| Wrong::new("type", "must be INSERT, UPDATE or DELETE"))?;
    let schema = if map.contains_key("schema") { text("schema")? } else { "public".into() };
    let table = TableName::new(schema, text("table")?);
    let given = |key: &str| map.get(key).map(|raw| raw.get()).filter(|json| *json != "null");
    let row = |key: &str, wanted: bool| match (given(key), wanted) {
        (Some(json), true) => row(key, json, event).map(Some),
        (None, false) => Ok(None),
        (None, true) => Err(must(key, event)),
        (Some(_), false) => Err(Wrong::new(key, format!("must be null: this is an {}", event.word()))),
    };
    let new = row("record", event != Event::Delete)?;
    let old = match event {
        // A trigger of one's own may leave it out.
        Event::Update if given("old_record").is_none() => None,
        _ => row("old_record", event != Event::Insert)?,
    };
    Ok(Told { table, event, new, old })
}

/// One value a column, so that what is judged is what is kept.
fn row(key: &str, json: &str, event: Event) -> Result<String, Wrong> {
    let columns: Object = serde_json::from_str(json).map_err(|_| must(key, event))?;
    if holds_nul(json) {
        return Err(Wrong::new(key, "holds the character \\u0000, which no row has"));
    }
    let fields: Vec<String> = columns.iter().map(|(name, value)| format!("{}:{}", string(name), value.get())).collect();
    Ok(format!("{{{}}}", fields.join(",")))
}

fn must(key: &str, event: Event) -> Wrong {
    Wrong::new(key, format!("must be the row, as an object: this is an {}", event.word()))
}

/// How deep a JSON text nests.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inserted(record: &str) -> Result<Option<String>, Wrong> {
        told(&format!(r#"{{"type": "INSERT", "table": "t", "record": {record}}}"#)).map(|told| told.new)
    }

    #[test]
    fn a_row_stays_the_text_that_it_was_whatever_it_holds() {
        for row in [
            r#"{"n":12345678901234567890.1234567890123456789}"#,
            r#"{"m":-0.0,"n":1e400}"#,
            r#"{"a":"\u202Ertl\u2066 <img src=x> \\u0000 \ud83d\ude00"}"#,
            r#"{"":{"deep":[[[["x"]]]]},"__proto__":{}}"#,
        ] {
            assert_eq!(inserted(row).ok().flatten().as_deref(), Some(row));
        }
        assert_eq!(inserted(r#"{"a": 1, "a": 2}"#).ok().flatten().as_deref(), Some(r#"{"a":2}"#), "the last one");
    }

    #[test]
    fn what_is_no_row_is_refused_by_its_field() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(99), "]".repeat(99));
        for (row, field) in
            [(deep.as_str(), "body"), (r#"{"a":"x\u0000"}"#, "record"), (r#"{"\u0000":1}"#, "record"), ("[]", "record")]
        {
            assert_eq!(inserted(row).unwrap_err().field, field, "{row}");
        }
        assert_eq!(depth(r#"{"a": "[[[\"[{", "b": [1]}"#), 2);
    }
}
