//! Rows as plain PostgREST shows them, and what is made of them here: the same hashes as `md5(row(…)::text)` on the
//! other side. Pure.

use std::fmt;

use md5::{Digest as _, Md5};
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use crate::apply::tables::{condition, quoted};
use crate::reconcile::part::{Bounds, Digest, Key};
use crate::rest::encoded;

/// One row: its columns as their output functions write them, in the order asked for, and its version behind them.
#[derive(Debug, PartialEq, Eq)]
pub struct Row(pub Vec<Option<String>>);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;
        impl<'de> Visitor<'de> for Columns {
            type Value = Row;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut cells = Vec::new();
                // PostgREST writes a row's columns in the order of `select`.
                while map.next_key::<IgnoredAny>()?.is_some() {
                    cells.push(map.next_value::<Text>()?.0);
                }
                Ok(Row(cells))
            }
        }
        deserializer.deserialize_map(Columns)
    }
}

/// A value as its output function writes it. Columns are asked for as text, but for those of types whose cast to text
/// writes them in another way: a boolean then comes as JSON's, and is written `t` or `f`.
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl Visitor<'_> for One {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a column as text")
            }
            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Text, E> {
                Ok(Text(Some(if value { "t" } else { "f" }.into())))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(Some(text.into())))
            }
            fn visit_string<E>(self, text: String) -> Result<Text, E> {
                Ok(Text(Some(text)))
            }
            // A column that is of another type over there: it differs, whatever is made of it.
            fn visit_i64<E>(self, number: i64) -> Result<Text, E> {
                Ok(Text(Some(number.to_string())))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Text, E> {
                Ok(Text(Some(number.to_string())))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Text, E> {
                Ok(Text(Some(number.to_string())))
            }
        }
        deserializer.deserialize_any(One)
    }
}

/// `c0:"id"::text,c1:done,…`: what is asked of each row, encoded. `as_is` are the columns that are not cast.
pub fn select(columns: &[(&str, bool)], version: bool) -> String {
    let mut list: Vec<String> = Vec::with_capacity(columns.len() + 1);
    for (n, (name, as_is)) in columns.iter().enumerate() {
        let cast = if *as_is { "" } else { "::text" };
        list.push(format!("c{n}:{}{cast}", encoded(&short(name))));
    }
    if version {
        list.push(format!("c{}:xmin::text", columns.len()));
    }
    list.join(",")
}

/// Plain names go without quotes, which would take six bytes each.
fn short(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let plain = name.bytes().all(plain) && name.starts_with(|first: char| first.is_ascii_lowercase());
    if plain { name.to_owned() } else { quoted(name) }
}

/// The conditions that hold for rows of a range only, encoded; empty for all rows. Key by key, since PostgREST compares
/// no rows; the first column's own condition is what an index is good for.
pub fn within(names: &[String], (after, upto): &Bounds) -> String {
    let bounds = [
        after.as_ref().map(|key| beyond(names, key, "gt", "gt")),
        upto.as_ref().map(|key| beyond(names, key, "lt", "lte")),
    ];
    let bounds: Vec<String> = bounds.into_iter().flatten().collect();
    if bounds.is_empty() { String::new() } else { format!("and=({})", encoded(&bounds.join(","))) }
}

/// `a > 1`, or for more columns `a >= 1 and (a > 1 or a = 1 and b > 2)`.
fn beyond(names: &[String], key: &Key, strict: &str, last: &str) -> String {
    let columns: Vec<(&String, &String)> = names.iter().zip(key).collect();
    if let [(name, text)] = columns[..] {
        return condition(name, last, text);
    }
    let mut ways = Vec::with_capacity(columns.len());
    for (n, (name, text)) in columns.iter().enumerate() {
        let operator = if n + 1 == columns.len() { last } else { strict };
        let mut all: Vec<String> = columns[..n].iter().map(|(name, text)| condition(name, "eq", text)).collect();
        all.push(condition(name, operator, text));
        ways.push(if all.len() == 1 { all.remove(0) } else { format!("and({})", all.join(",")) });
    }
    let Some((name, text)) = columns.first() else { return String::new() };
    format!("{},or({})", condition(name, &format!("{strict}e"), text), ways.join(","))
}

/// The condition that finds one row, encoded.
pub fn is(names: &[String], key: &Key) -> String {
    let conditions: Vec<String> = names.iter().zip(key).map(|(name, text)| condition(name, "eq", text)).collect();
    match &conditions[..] {
        [one] => encoded(one),
        many => encoded(&format!("and({})", many.join(","))),
    }
}

/// What `md5(row(…)::text)` says.
pub fn hash(cells: &[Option<String>]) -> String {
    use fmt::Write;
    let mut text = String::with_capacity(64);
    record(cells, &mut text);
    let mut out = String::with_capacity(32);
    for byte in Md5::digest(text.as_bytes()) {
        let _ = write!(out, "{byte:02x}"); // into a String: it cannot fail
    }
    out
}

/// A row as Postgres's `record_out` writes it.
fn record(cells: &[Option<String>], out: &mut String) {
    const SPECIAL: [char; 11] = ['"', '\\', '(', ')', ',', ' ', '\t', '\n', '\r', '\u{b}', '\u{c}'];
    out.push('(');
    for (n, cell) in cells.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        let Some(text) = cell else { continue };
        if !text.is_empty() && !text.contains(SPECIAL) {
            out.push_str(text);
            continue;
        }
        out.push('"');
        for character in text.chars() {
            if character == '"' || character == '\\' {
                out.push(character);
            }
            out.push(character);
        }
        out.push('"');
    }
    out.push(')');
}

/// Which part of a table that is divided by the hash of its key a row belongs to.
pub fn bucket(key: &Key, modulus: u32) -> u32 {
    let cells: Vec<Option<String>> = key.iter().cloned().map(Some).collect();
    hex(&hash(&cells)[..7]) as u32 % modulus.max(1)
}

/// A digest that grows row by row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    rows: u64,
    a: u128,
    b: u128,
}

impl Sums {
    pub fn add(&mut self, hash: &str) {
        self.rows += 1;
        self.a += u128::from(hex(&hash[..15]));
        self.b += u128::from(hex(&hash[16..31]));
    }

    pub fn digest(&self) -> Digest {
        Digest::new(self.rows, self.a.to_string(), self.b.to_string())
    }
}

/// Of digits that were written here.
fn hex(digits: &str) -> u64 {
    u64::from_str_radix(digits, 16).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(texts: &[Option<&str>]) -> Vec<Option<String>> {
        texts.iter().map(|text| text.map(str::to_owned)).collect()
    }

    #[test]
    fn a_row_is_written_as_postgres_writes_a_record() {
        let mut text = String::new();
        let values =
            [Some("1"), None, Some(""), Some("a b"), Some("q\"\\"), Some("x,y"), Some("(z)"), Some("ü"), Some("\n")];
        record(&cells(&values), &mut text);
        assert_eq!(text, "(1,,\"\",\"a b\",\"q\"\"\\\\\",\"x,y\",\"(z)\",ü,\"\n\")");
        // select md5(row(1, null::text, 'a b')::text)
        assert_eq!(hash(&cells(&[Some("1"), None, Some("a b")])), "4a8f74078f4ed491ad655321faa7cb68");
    }

    #[test]
    fn a_range_is_said_key_by_key_and_its_last_key_belongs_to_it() {
        let key = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Key>());
        let one = ["id".to_owned()];
        assert_eq!(within(&one, &(None, None)), "");
        assert_eq!(
            within(&one, &(key(&["-5"]), key(&["7"]))),
            encoded(r#"and=("id".gt.-5,"id".lte.7)"#).replace("%3D", "=")
        );
        let two = ["a".to_owned(), "b".to_owned()];
        assert_eq!(
            within(&two, &(key(&["1", "2"]), None)),
            format!("and=({})", encoded(r#""a".gte.1,or("a".gt.1,and("a".eq.1,"b".gt.2))"#))
        );
        assert_eq!(
            within(&two, &(None, key(&["1", "2"]))),
            format!("and=({})", encoded(r#""a".lte.1,or("a".lt.1,and("a".eq.1,"b".lte.2))"#))
        );
        assert_eq!(is(&two, &vec!["1".into(), "x,y".into()]), encoded(r#"and("a".eq.1,"b".eq."x,y")"#));
    }

    #[test]
    fn columns_are_asked_for_as_text_and_read_in_their_order() {
        assert_eq!(
            select(&[("id", false), ("done", true), ("Odd \"x", false)], true),
            "c0:id::text,c1:done,c2:%22Odd%20%5C%22x%22::text,c3:xmin::text"
        );
        let rows: Vec<Row> = serde_json::from_str(
            r#"[{"c0":"1","c1":true,"c2":null,"c3":"7"},{"c0":"\u00fc","c1":false,"c2":"","c3":"8"}]"#,
        )
        .unwrap();
        let expected =
            [cells(&[Some("1"), Some("t"), None, Some("7")]), cells(&[Some("ü"), Some("f"), Some(""), Some("8")])];
        assert_eq!(rows, expected.map(Row));
    }

    #[test]
    fn sums_are_those_of_the_function() {
        // 60 bits each, of the first and the second half of the hash.
        let mut sums = Sums::default();
        sums.add("000000000000001f0000000000000002");
        sums.add("fffffffffffffff00000000000000010");
        assert_eq!(sums.digest(), Digest::new(2, "1152921504606846976".into(), "1".into()));
    }
}
