//! Which tables may hold rows that are younger than the stream has come so far: those of which rows were read again from
//! the source. The stream still tells what became of them, and lands on the same rows; only a large value that it leaves
//! out must not go along with a changed key, for by now the old key may be another row's.

use std::collections::HashMap;

use crate::types::{Position, TableName};

#[derive(Debug, Default)]
pub struct Ahead {
    /// What an earlier start read was committed before this; not known before something is read again.
    start: Option<Position>,
    tables: HashMap<TableName, Position>,
    /// How many times something was read.
    reads: u64,
}

impl Ahead {
    /// Whether a change behind `base` may find a row of the table younger than itself.
    pub fn holds(&self, table: &TableName, base: Position) -> bool {
        self.start.is_none_or(|start| base < start) || self.tables.get(table).is_some_and(|&at| base < at)
    }

    /// Another number: a plan that was made before may lack what it must complete by now.
    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// Rows of the table were read, with all that was committed up to `at`.
    pub fn read(&mut self, table: &TableName, at: Position) {
        self.reads += 1;
        self.start.get_or_insert(at);
        let known = self.tables.entry(table.clone()).or_insert(at);
        *known = at.max(*known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_the_stream_has_passed_what_was_read_a_row_may_be_younger() {
        let [one, two] = ["one", "two"].map(|name| TableName::new("public", name));
        let at = |major| Position { major, minor: 0 };
        let mut ahead = Ahead::default();
        assert!(ahead.holds(&one, at(1)), "what an earlier start read is not known");
        ahead.read(&one, at(10));
        assert!(ahead.holds(&one, at(9)) && ahead.holds(&two, at(9)) && !ahead.holds(&one, at(10)));
        ahead.read(&two, at(20));
        ahead.read(&two, at(15));
        assert!(!ahead.holds(&one, at(19)) && ahead.holds(&two, at(19)) && !ahead.holds(&two, at(20)));
    }
}
