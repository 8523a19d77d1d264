//! Spells names and values into SQL: names always, values only where no parameter can go (replication commands, SQL
//! that is printed for people).

use crate::types::TableName;

/// An identifier, always in double quotes: no list of keywords to keep, and no name that folds to lower case.
///
/// Postgres knows no name with a NUL in it; one would end the statement early on the wire, so it is dropped.
pub fn ident(name: &str) -> String {
    wrap(name, '"')
}

/// A table's name with its schema.
pub fn table(name: &TableName) -> String {
    format!("{}.{}", ident(&name.schema), ident(&name.name))
}

/// A text literal. One with a backslash becomes an `E''` literal, so that it means the same whatever
/// `standard_conforming_strings` says.
pub fn literal(value: &str) -> String {
    if value.contains('\\') { format!("E{}", wrap(&value.replace('\\', "\\\\"), '\'')) } else { wrap(value, '\'') }
}

/// A literal in the grammar of replication commands, which knows no `E''` and takes a backslash as it stands.
pub fn command_literal(value: &str) -> String {
    wrap(value, '\'')
}

fn wrap(text: &str, quote: char) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(quote);
    for c in text.chars().filter(|&c| c != '\0') {
        if c == quote {
            quoted.push(quote);
        }
        quoted.push(c);
    }
    quoted.push(quote);
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        assert_eq!(ident("Order"), r#""Order""#);
        assert_eq!(ident(r#"a"; drop table b; --"#), r#""a""; drop table b; --""#);
        assert_eq!(ident("a\0b"), r#""ab""#);
        assert_eq!(table(&TableName::new("my schema", "select")), r#""my schema"."select""#);
    }

    #[test]
    fn a_literal_cannot_leave_its_quotes() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"\'; drop"), r"E'\\''; drop'");
        assert_eq!(literal("a\0b"), "'ab'");
    }
}
