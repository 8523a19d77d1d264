//! The text of a record, as `row(..)::text` writes it, read back into the values that it was made of.

use crate::types::{Cell, Malformed};

/// Reads the fields of a record in order; what an output function wrote comes out as it was.
pub fn fields(text: &str, mut each: impl FnMut(Cell<'_>)) -> Result<(), Malformed> {
    let inner = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    let mut rest = inner.ok_or(Malformed("a record without its parentheses"))?.as_bytes();
    let mut unquoted = Vec::new();
    loop {
        if rest.first() == Some(&b'"') {
            unquoted.clear();
            rest = quoted(&rest[1..], &mut unquoted)?;
            each(Cell::Text(&unquoted));
        } else {
            let end = memchr::memchr(b',', rest).unwrap_or(rest.len());
            // What is empty and not in quotes is null.
            each(if end == 0 { Cell::Null } else { Cell::Text(&rest[..end]) });
            rest = &rest[end..];
        }
        match rest.split_first() {
            None => return Ok(()),
            Some((b',', more)) => rest = more,
            Some(_) => return Err(Malformed("a record with something behind a quoted field")),
        }
    }
}

/// Quotes and backslashes are written twice inside of quotes.
fn quoted<'a>(mut rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Malformed> {
    loop {
        let at = memchr::memchr2(b'"', b'\\', rest).ok_or(Malformed("a record that ends within quotes"))?;
        out.extend_from_slice(&rest[..at]);
        match (rest[at], rest.get(at + 1)) {
            (twice, Some(&next)) if twice == next => out.push(next),
            (b'"', _) => return Ok(&rest[at + 1..]),
            _ => return Err(Malformed("a record with a lone backslash")),
        }
        rest = &rest[at + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Option<String>>, Malformed> {
        let mut found = Vec::new();
        fields(text, |cell| {
            found.push(match cell {
                Cell::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
                _ => None,
            });
        })?;
        Ok(found)
    }

    #[test]
    fn a_record_reads_back_as_the_values_that_were_written() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(read("(1,abc,,\"\",f)").unwrap(), [text("1"), text("abc"), None, text(""), text("f")]);
        let odd = r#"("a ""b""","c\\d,)(","(1,""x"")",)"#;
        assert_eq!(read(odd).unwrap(), [text("a \"b\""), text("c\\d,)("), text("(1,\"x\")"), None]);
        assert_eq!(read("()").unwrap(), [None], "one column, and it is null");
        assert_eq!(read("(\"two\nlines\")").unwrap(), [text("two\nlines")]);
    }

    #[test]
    fn text_that_is_no_record_is_refused() {
        for text in ["", "1,2", "(\"a", "(\"a\"b)", "(\"a\\b\")"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
