//! A mistake in the settings: what is wrong, where it was written, in one line.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// `SUPABASE_KEY in .env`, `supabase.key in lockstep.toml`, or the name of a file.
    pub place: String,
    pub cause: String,
}

impl Problem {
    pub fn new(place: impl Into<String>, cause: impl Into<String>) -> Self {
        // Messages of parsers may span lines; an operator greps for one.
        let cause = cause.into().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { place: place.into(), cause }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.cause)
    }
}
