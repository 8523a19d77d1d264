//! Points in a history: an LSN of the source's WAL, and a position of a route.

use std::fmt;
use std::str::FromStr;

/// A byte address in the write-ahead log, written `16/B374D848` as Postgres does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not an LSN such as 16/B374D848");
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let half = |digits: &str| u32::from_str_radix(digits, 16).map_err(|_| bad());
        Ok(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

/// A point in a route's history, totally ordered.
///
/// `(end, 0)` means that everything up to `end`, the end of a commit record, is included. `(commit, n)` with `n > 0`
/// means that of the oversize transaction whose commit record starts at `commit` the first `n` changes are included
/// too. A commit record starts at or after the end of the one before it and ends after its own start, so both kinds
/// fall in one order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub major: u64,
    pub minor: u64,
}

impl Position {
    /// Everything that ended at or before this LSN.
    pub fn at(end: Lsn) -> Self {
        Self { major: end.0, minor: 0 }
    }

    /// The LSN from which the source must still be able to send: what lies before it may be forgotten.
    pub fn lsn(self) -> Lsn {
        Lsn(self.major)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            0 => write!(f, "{}", self.lsn()),
            minor => write!(f, "{}+{minor}", self.lsn()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_reads_back_as_it_was_written() {
        for lsn in [Lsn(0), Lsn(0x16_B374_D848), Lsn(u64::MAX)] {
            assert_eq!(lsn.to_string().parse(), Ok(lsn));
        }
        assert!("16-B3".parse::<Lsn>().is_err());
        assert!("1/100000000".parse::<Lsn>().is_err());
    }
}
