//! A row as workflows see it: JSON, column by column, as Postgres' `to_json` writes it. Values stay the text that they
//! were: no number passes through a float.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::types::{Cell, Relation, Tuple};

/// A column's larger value is left out of a run's record: an action that needs it can read the row.
const VALUE_BYTES: usize = 64 << 10;
/// A row's values together; those beyond are left out.
const ROW_BYTES: usize = 256 << 10;

/// The columns of a row by name, each as the JSON text that it is.
#[derive(Clone, Debug, Default)]
pub struct Row(BTreeMap<String, Box<RawValue>>);

impl Row {
    pub fn parse(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok().map(Self)
    }

    /// The JSON text of a column; `None` when the change does not tell it.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.0.get(column).map(|value| value.get())
    }

    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// The text that a JSON value stands for: of a string what is in it, of anything else its JSON.
pub fn plain(json: &str) -> String {
    serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned())
}

/// A row of the stream as JSON.
#[derive(Debug, Default)]
pub struct Json {
    /// As it is recorded.
    pub kept: String,
    /// The columns that were too large for that.
    pub left_out: Vec<String>,
    /// With them, where there are any: a workflow is decided by all of a row, whatever is kept of it.
    whole: Option<String>,
}

impl Json {
    pub fn whole(&self) -> &str {
        self.whole.as_deref().unwrap_or(&self.kept)
    }
}

/// `only_key`: of an old row under the usual replica identity only the key's columns are known; the others are not null,
/// they were not told.
pub fn to_json(relation: &Relation, row: &Tuple, only_key: bool) -> Json {
    let (kept, left_out) = written(relation, row, only_key, (VALUE_BYTES, ROW_BYTES));
    let whole = (!left_out.is_empty()).then(|| written(relation, row, only_key, (usize::MAX, usize::MAX)).0);
    Json { kept, left_out, whole }
}

/// Within `(bytes of a value, bytes of the row)`; and the columns that do not fit.
fn written(relation: &Relation, row: &Tuple, only_key: bool, most: (usize, usize)) -> (String, Vec<String>) {
    let (mut out, mut left_out) = (String::with_capacity(row.size().min(most.1) * 2), Vec::new());
    out.push('{');
    for (column, cell) in relation.columns.iter().zip(row.cells()) {
        if only_key && !column.key {
            continue;
        }
        let value = match cell {
            Cell::Unchanged => continue,
            Cell::Null => "null".to_owned(),
            Cell::Text(text) if text.len() > most.0 || out.len() + text.len() > most.1 => {
                left_out.push(column.name.clone());
                continue;
            }
            // Postgres was asked for UTF-8.
            Cell::Text(text) => value(column.type_oid, &String::from_utf8_lossy(text)),
        };
        if out.len() > 1 {
            out.push(',');
        }
        out += &string(&column.name);
        out.push(':');
        out += &value;
    }
    out.push('}');
    (out, left_out)
}

/// Whether a JSON text holds the character that no text of Postgres holds.
pub fn holds_nul(json: &str) -> bool {
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let escape = rest.get(at + 1..).unwrap_or_default();
        if escape.starts_with("u0000") {
            return true;
        }
        rest = escape.get(1..).unwrap_or_default();
    }
    false
}

pub fn string(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_else(|_| "null".into())
}

/// How the values of a type look in JSON.
#[derive(Clone, Copy)]
enum Kind {
    Bool,
    Number,
    Json,
    Time,
    Text,
}

/// By the oids of pg_type.dat, which never change; every other type travels as its text.
fn kind(oid: u32) -> Kind {
    match oid {
        16 => Kind::Bool,
        20 | 21 | 23 | 26 | 700 | 701 | 1700 => Kind::Number,
        114 | 3802 => Kind::Json,
        1114 | 1184 => Kind::Time,
        _ => Kind::Text,
    }
}

/// The element type of an array type.
fn element(oid: u32) -> Option<u32> {
    Some(match oid {
        1000 => 16,
        1005 => 21,
        1007 => 23,
        1016 => 20,
        1028 => 26,
        1021 => 700,
        1022 => 701,
        1231 => 1700,
        199 => 114,
        3807 => 3802,
        1115 => 1114,
        1185 => 1184,
        1009 | 1015 | 1014 | 1002 | 2951 | 1182 | 1183 | 1270 | 1187 | 1041 | 651 => 25,
        _ => return None,
    })
}

fn value(oid: u32, text: &str) -> String {
    match element(oid) {
        Some(element) => array(element, text).unwrap_or_else(|| string(text)),
        None => scalar(oid, text),
    }
}

fn scalar(oid: u32, text: &str) -> String {
    match kind(oid) {
        Kind::Bool => (if text == "t" { "true" } else { "false" }).to_owned(),
        // NaN and Infinity are no JSON numbers.
        Kind::Number if text.bytes().any(|byte| byte.is_ascii_alphabetic() && byte != b'e') => string(text),
        Kind::Number => text.to_owned(),
        Kind::Json => text.to_owned(),
        Kind::Time => string(&iso(text)),
        Kind::Text => string(text),
    }
}

/// `2026-11-23 16:18:02.5+00` as ISO 8601 has it.
fn iso(text: &str) -> String {
    let mut text = text.replacen(' ', "T", 1);
    if text.len() > 3 && matches!(text.as_bytes()[text.len() - 3], b'+' | b'-') && text.contains(':') {
        text += ":00";
    }
    text
}

/// An array's text as JSON; `None` for one with bounds of its own (`[2:3]={1,2}`), which JSON does not know.
fn array(element: u32, text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text.chars().peekable();
    let mut depth = 0usize;
    loop {
        match rest.peek()? {
            '{' => {
                rest.next();
                depth += 1;
                out.push('[');
            }
            '}' => {
                rest.next();
                depth = depth.checked_sub(1)?;
                out.push(']');
                if depth == 0 {
                    return rest.peek().is_none().then_some(out);
                }
            }
            ',' => {
                rest.next();
                out.push(',');
            }
            _ if depth == 0 => return None,
            '"' => {
                rest.next();
                let mut item = String::new();
                loop {
                    match rest.next()? {
                        '"' => break,
                        '\\' => item.push(rest.next()?),
                        c => item.push(c),
                    }
                }
                out += &scalar(element, &item);
            }
            _ => {
                let mut item = String::new();
                while let Some(&c) = rest.peek().filter(|c| !matches!(c, ',' | '}')) {
                    item.push(c);
                    rest.next();
                }
                out += &if item == "NULL" { "null".to_owned() } else { scalar(element, &item) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{RelationColumn, TableName, TupleBuilder};

    fn json(columns: &[(&str, u32, Cell<'_>)]) -> Json {
        let named = |(name, type_oid, _): &(&str, u32, Cell<'_>)| RelationColumn {
            name: (*name).into(),
            key: *name == "id",
            type_oid: *type_oid,
            type_modifier: -1,
        };
        let columns_of = columns.iter().map(named).collect();
        let relation = Relation { oid: 1, name: TableName::new("public", "t"), identity: b'd', columns: columns_of };
        let mut row = TupleBuilder::new();
        columns.iter().for_each(|(_, _, cell)| row.push(*cell));
        to_json(&relation, &row.finish(), false)
    }

    #[test]
    fn values_become_the_json_that_to_json_writes() {
        let cases: [(u32, &str, &str); 14] = [
            (16, "t", "true"),
            (20, "9223372036854775807", "9223372036854775807"),
            (1700, "12345678901234567890.1234567890", "12345678901234567890.1234567890"),
            (1700, "NaN", "\"NaN\""),
            (701, "1e+20", "1e+20"),
            (701, "-Infinity", "\"-Infinity\""),
            (3802, r#"{"a": [1]}"#, r#"{"a": [1]}"#),
            (1184, "2026-11-23 16:18:02.5+00", "\"2026-11-23T16:18:02.5+00:00\""),
            (1114, "2026-11-23 16:18:02", "\"2026-11-23T16:18:02\""),
            (25, "a\"b\\", r#""a\"b\\""#),
            (1007, "{1,NULL,3}", "[1,null,3]"),
            (1009, r#"{a,"b,\"c",NULL,"NULL",{}}"#, r#"["a","b,\"c",null,"NULL",[]]"#),
            (1007, "[2:3]={1,2}", "\"[2:3]={1,2}\""),
            (1009, "{}", "[]"),
        ];
        for (oid, text, expected) in cases {
            assert_eq!(value(oid, text), expected, "{text} of type {oid}");
        }
    }

    #[test]
    fn what_is_not_told_is_not_there_and_what_is_too_large_is_named() {
        let large = "x".repeat(VALUE_BYTES + 1);
        let columns =
            [("id", 23, Cell::Text(b"7")), ("body", 25, Cell::Unchanged), ("big", 25, Cell::Text(large.as_bytes()))];
        let json = json(&columns);
        assert_eq!((json.kept.as_str(), json.left_out), (r#"{"id":7}"#, vec!["big".to_owned()]));
        let row = Row::parse(&json.kept).unwrap();
        assert_eq!((row.get("id"), row.get("body")), (Some("7"), None));
        assert_eq!(json.whole, Some(format!(r#"{{"id":7,"big":"{large}"}}"#)), "what decides is whole");
    }
}
