//! How a row travels to a table without any function of ours: as an object in JSON, and its key as a filter in the
//! address. A value that would not arrive as it was written is never sent.

use std::sync::Arc;

use crate::apply::shape::Mapped;
use crate::rest::encoded;
use crate::types::{Cell, Tuple};

/// A table's rows, and which of their columns hold JSON.
#[derive(Debug)]
pub struct Form {
    pub mapped: Arc<Mapped>,
    /// For each of the mapping's columns.
    pub json: Vec<Option<Json>>,
    /// Which table of the source it is.
    pub oid: u32,
}

/// The two types of JSON: one keeps its text, one its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Json {
    Text,
    Binary,
}

/// What plain PostgREST cannot be told, in words that follow the column's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    pub column: String,
    pub why: &'static str,
}

/// Longest filter in an address. Addresses are cut at 8 kB by most that stand before PostgREST; the rest of the line
/// takes a few hundred bytes.
pub const FILTER_BYTES: usize = 7_000;
/// A longer list of columns is left out: PostgREST then takes the names from the rows, which all have the same.
const COLUMNS_BYTES: usize = 6_000;

impl Form {
    /// The names of some of its columns as a list in an address, encoded; none when it would be too long for one.
    pub fn columns(&self, columns: &[usize]) -> Option<String> {
        let names: Vec<String> = columns.iter().map(|&at| quoted(&self.mapped.columns[at].1)).collect();
        Some(encoded(&names.join(","))).filter(|list| list.len() <= COLUMNS_BYTES)
    }

    /// The names of the key's columns as a list in an address, encoded.
    pub fn key_columns(&self) -> String {
        let names: Vec<String> = self.mapped.key_names.iter().map(|name| quoted(name)).collect();
        encoded(&names.join(","))
    }

    /// The key's columns as text, to be read: `k0:"id"::text`.
    pub fn key_names_as_text(&self) -> Vec<String> {
        let names = self.mapped.key_names.iter().enumerate();
        names.map(|(n, name)| format!("k{n}:{}::text", quoted(name))).collect()
    }

    /// The condition that finds a row by its key, encoded; or why it cannot be written.
    pub fn filter(&self, row: &Tuple) -> Result<String, Unfit> {
        let mut conditions = Vec::with_capacity(self.mapped.key.len());
        for (name, &place) in self.mapped.key_names.iter().zip(&self.mapped.key) {
            let unfit = |why| Unfit { column: name.clone(), why };
            conditions.push(match row.cells().nth(place) {
                Some(Cell::Text(text)) => {
                    let text = std::str::from_utf8(text).map_err(|_| unfit("holds text that is not UTF-8"))?;
                    condition(name, "eq", text)
                }
                _ => format!("{}.is.null", quoted(name)),
            });
        }
        let all = match &conditions[..] {
            [one] => encoded(one),
            many => encoded(&format!("and({})", many.join(","))),
        };
        if all.len() > FILTER_BYTES {
            let column = self.mapped.key_names.join(", ");
            return Err(Unfit { column, why: "is a key too long for an address, by which plain PostgREST finds rows" });
        }
        Ok(all)
    }

    /// Every row there is. Never without a filter: what guards against a forgotten one would refuse it.
    pub fn everything(&self) -> String {
        format!("or={}", encoded(&format!("({}.not.is.null)", quoted(&self.mapped.key_names[0]))))
    }

    /// No row at all, whatever the table holds.
    pub fn nothing(&self) -> String {
        let name = quoted(&self.mapped.key_names[0]);
        format!("and={}", encoded(&format!("({name}.is.null,{name}.not.is.null)")))
    }

    /// Appends a row's columns as a JSON object.
    pub fn object(&self, row: &Tuple, columns: &[usize], out: &mut Vec<u8>) -> Result<(), Unfit> {
        let cells: Vec<Cell<'_>> = row.cells().collect();
        out.push(b'{');
        for (n, &column) in columns.iter().enumerate() {
            let (place, name) = &self.mapped.columns[column];
            if n > 0 {
                out.push(b',');
            }
            string(name.as_bytes(), out);
            out.push(b':');
            match (cells.get(*place), self.json[column]) {
                (Some(Cell::Text(text)), Some(json)) => {
                    fits(json, text).map_err(|why| Unfit { column: name.clone(), why })?;
                    out.extend_from_slice(text);
                }
                // Every other type is read from text by its own input function, and nothing in between understands it.
                (Some(Cell::Text(text)), None) => string(text, out),
                _ => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
        Ok(())
    }

    /// A row's key for a person: `id=7`.
    pub fn readable(&self, row: &Tuple) -> String {
        let value = |&at: &usize| match row.cells().nth(at) {
            Some(Cell::Text(text)) => String::from_utf8_lossy(&text[..text.len().min(100)]).into_owned(),
            _ => "NULL".into(),
        };
        let pairs = self.mapped.key_names.iter().zip(self.mapped.key.iter().map(value));
        pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
    }
}

/// One condition of a filter: `"id".eq.7`.
pub fn condition(name: &str, operator: &str, text: &str) -> String {
    format!("{}.{operator}.{}", quoted(name), value(text))
}

/// A name in PostgREST's grammar, always in quotes: any name means itself then, also `or`, `select` and `a.b`.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A value in a filter. Plain ones go without quotes, which would take three bytes each.
fn value(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !text.is_empty() && text.bytes().all(plain) { text.to_owned() } else { quoted(text) }
}

/// A JSON string.
fn string(text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..=0x1f => {
                let digit = |n: u8| HEX[usize::from(n)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Whether a JSON value that is embedded in the body reaches its column as it is. Postgres takes it out of the body
/// with json_to_recordset: objects, arrays, numbers keep their text; a string is unescaped and escaped again; what
/// surrounds a value is lost; and `null` is NULL there.
fn fits(json: Json, text: &[u8]) -> Result<(), &'static str> {
    if text == b"null" {
        return Err("holds the JSON value null, which plain PostgREST takes for NULL");
    }
    if json == Json::Binary {
        return Ok(());
    }
    let blank = |byte: Option<&u8>| byte.is_none_or(|byte| b" \t\r\n".contains(byte));
    if blank(text.first()) || blank(text.last()) {
        return Err("holds JSON with blanks around it, which plain PostgREST would cut off");
    }
    if text.first() == Some(&b'"') {
        let mut again = Vec::with_capacity(text.len());
        if let Ok(meant) = serde_json::from_slice::<String>(text) {
            string(meant.as_bytes(), &mut again);
        }
        if again != text {
            return Err("holds a JSON string with escapes that plain PostgREST would spell otherwise");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{TableName, TupleBuilder};

    fn form(key: &[(usize, &str)], columns: &[(usize, &str)], json: Vec<Option<Json>>) -> Form {
        let mapped = Mapped {
            table: TableName::new("public", "t"),
            key_names: key.iter().map(|(_, name)| (*name).to_owned()).collect(),
            key: key.iter().map(|(at, _)| *at).collect(),
            columns: columns.iter().map(|(at, name)| (*at, (*name).to_owned())).collect(),
        };
        Form { mapped: Arc::new(mapped), json, oid: 1 }
    }

    fn row(cells: &[Option<&str>]) -> Tuple {
        let mut row = TupleBuilder::new();
        cells.iter().for_each(|cell| row.push(cell.map_or(Cell::Null, |text| Cell::Text(text.as_bytes()))));
        row.finish()
    }

    /// The grammar is PostgREST's: a backslash escapes within quotes, in names and in values.
    #[test]
    fn a_key_of_any_text_is_one_condition_and_cannot_leave_its_quotes() {
        let one = form(&[(0, "id")], &[(0, "id")], vec![None]);
        for (text, expected) in [
            ("5", r#""id".eq.5"#),
            ("-5", r#""id".eq.-5"#),
            ("", r#""id".eq."""#),
            ("a,b", r#""id".eq."a,b""#),
            ("x)", r#""id".eq."x)""#),
            (r#"q"\"#, r#""id".eq."q\"\\""#),
            ("{1,2}", r#""id".eq."{1,2}""#),
            ("2020-01-01 00:00:00+00", r#""id".eq."2020-01-01 00:00:00+00""#),
            ("ü%", r#""id".eq."ü%""#),
        ] {
            assert_eq!(one.filter(&row(&[Some(text)])).unwrap(), encoded(expected), "{text}");
        }
        let two = form(&[(1, "a\"b"), (0, "or")], &[(0, "or"), (1, "a\"b")], vec![None; 2]);
        let filter = two.filter(&row(&[Some("1"), None])).unwrap();
        assert_eq!(filter, encoded(r#"and("a\"b".is.null,"or".eq.1)"#));
        let long = "ü".repeat(FILTER_BYTES / 4);
        assert!(one.filter(&row(&[Some(&long)])).unwrap_err().why.contains("too long"));
    }

    #[test]
    fn values_travel_as_their_text_and_json_as_it_stands() {
        let form =
            form(&[(0, "id")], &[(0, "id"), (2, "n\"x"), (3, "j"), (1, "t")], vec![None, None, Some(Json::Text), None]);
        let mut out = Vec::new();
        let values = [Some("1"), Some("a\"\\\n\u{1}é"), Some("12.50"), Some(r#"{"b": 1,  "b":2}"#)];
        form.object(&row(&values), &[0, 1, 2, 3], &mut out).unwrap();
        let expected = r#"{"id":"1","n\"x":"12.50","j":{"b": 1,  "b":2},"t":"a\"\\\n\u0001é"}"#;
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        form.object(&row(&[Some("1"), None, None, None]), &[0, 2], &mut out).unwrap();
        assert_eq!(out, br#"{"id":"1","j":null}"#);
    }

    #[test]
    fn json_that_would_arrive_otherwise_is_not_sent() {
        for text in ["null", " {}", "[]\n", r#""\u00e9""#, r#""a\/b""#, r#""\ud800""#] {
            assert!(fits(Json::Text, text.as_bytes()).is_err(), "{text}");
        }
        for text in ["{ }", "12.50", "true", r#""é""#, r#""a\"\\\n\u0001""#, r#"[null, "\u00e9"]"#, "\"\u{7f}\""] {
            assert_eq!(fits(Json::Text, text.as_bytes()), Ok(()), "{text}");
        }
        assert!(fits(Json::Binary, b"null").is_err());
        assert_eq!(fits(Json::Binary, b"[null]"), Ok(()));
    }
}
