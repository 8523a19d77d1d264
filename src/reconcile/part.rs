//! How a table is divided for a comparison, and what is said of a part.
//!
//! Where both sides are sure to sort a key alike, parts are ranges of it, and each is read by its index. Text is sorted
//! by each side's own collation, an enum by the order in which its labels were added: such a table is divided by a hash
//! of the key, which needs no order, and is read block by block.

use serde::{Deserialize, Serialize};

/// The values of a key's columns, as text, in the key's order.
pub type Key = Vec<String>;

/// A range of keys: behind one and up to another. It is open where a bound is missing: rows below the first key of the
/// source and above the last one belong to a range too.
pub type Bounds = (Option<Key>, Option<Key>);

/// What a part holds: two sides with the same digest hold the same rows, as surely as md5 goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    pub rows: u64,
    pub sums: (Sum, Sum),
}

/// A sum of hashes, as the server wrote it: too large for 64 bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sum(String);

impl Default for Sum {
    fn default() -> Self {
        Self("0".into())
    }
}

impl Digest {
    pub fn new(rows: u64, a: String, b: String) -> Self {
        Self { rows, sums: (Sum(a), Sum(b)) }
    }

    /// Both together, for a part that was read in pieces.
    pub fn plus(&self, other: &Self) -> Self {
        let add = |a: &Sum, b: &Sum| {
            // 2^64 rows of 60 bits each fit into 128.
            let number = |sum: &Sum| sum.0.parse::<u128>().unwrap_or(u128::MAX);
            Sum(number(a).wrapping_add(number(b)).to_string())
        };
        let sums = (add(&self.sums.0, &other.sums.0), add(&self.sums.1, &other.sums.1));
        Self { rows: self.rows + other.rows, sums }
    }
}

/// Whether two columns of these types, which may differ by side, sort alike everywhere and spell their values alike.
pub fn sorts_alike(source: &str, target: &str) -> bool {
    const WHOLE: [&str; 3] = ["smallint", "integer", "bigint"];
    const SAME: [&str; 8] = [
        "uuid",
        "date",
        "timestamp without time zone",
        "timestamp with time zone",
        "numeric",
        "bytea",
        "boolean",
        "oid",
    ];
    (WHOLE.contains(&source) && WHOLE.contains(&target)) || (source == target && SAME.contains(&source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_types_without_a_collation_or_an_order_of_their_own_are_divided_into_ranges() {
        for (source, target, alike) in [
            ("integer", "bigint", true),
            ("uuid", "uuid", true),
            ("uuid", "text", false),
            ("text", "text", false),
            ("character varying", "character varying", false),
            ("mood", "mood", false),
            ("timestamp with time zone", "timestamp without time zone", false),
        ] {
            assert_eq!(sorts_alike(source, target), alike, "{source}, {target}");
        }
    }

    #[test]
    fn pieces_of_a_part_add_up() {
        let whole = Digest::new(3, "36893488147419103232".into(), "5".into());
        let sum = Digest::new(1, "18446744073709551616".into(), "2".into()).plus(&Digest::new(
            2,
            "18446744073709551616".into(),
            "3".into(),
        ));
        assert_eq!(sum, whole);
        assert_eq!(whole.plus(&Digest::default()), whole);
    }
}
