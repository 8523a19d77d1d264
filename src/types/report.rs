//! What a comparison of both sides is asked for, how far it is, and what it found. Everything here is stored, shown and
//! sent as JSON.

use serde::{Deserialize, Serialize};

use super::TableName;

/// A comparison that somebody wants: a schedule, a person, a recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Which tables; empty means all that are replicated.
    #[serde(default)]
    pub tables: Vec<TableName>,
    /// Repair what differs; without it, only look.
    #[serde(default)]
    pub repair: bool,
    /// Who wants it, for the history.
    #[serde(default)]
    pub why: String,
}

/// How far a comparison is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub table: TableName,
    pub phase: Phase,
    /// Rows of the table that were compared so far.
    pub rows_done: u64,
    /// The planner's estimate of its rows; 0 when unknown.
    pub rows_estimated: u64,
    /// Differences found in it so far: proved ones.
    pub differences: u64,
    /// Since the table was begun.
    pub seconds: f64,
    /// Tables of this job that are finished, and how many it has.
    pub tables_done: usize,
    pub tables: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Comparing,
    Repairing,
    Finished,
}

/// What became of one table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableReport {
    pub table: TableName,
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Rows of the source that were compared.
    pub rows: u64,
    /// Found, before anything was repaired: rows that the target lacks, has otherwise, has alone.
    pub missing: u64,
    pub different: u64,
    pub surplus: u64,
    /// Rows that changed at the source as often as they were looked at: neither equal nor different could be proved.
    pub unsettled: u64,
    /// The first of them, up to a limit.
    pub keys: Vec<Difference>,
    /// What was repaired; 0 when only a look was asked for.
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    /// Bodies of requests to the target, and of its answers.
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub requests: u64,
    pub seconds: f64,
    /// What a reader must know of how it was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// How a table stands at the end: after a repair, how it stands then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    Equal,
    Different,
    /// It could not be told, and why.
    Unknown {
        why: String,
    },
}

impl Verdict {
    /// One word for a log or a label.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Different => "different",
            Self::Unknown { .. } => "unknown",
        }
    }
}

/// One row in which the sides differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The values of the key's columns, as text, in the key's order.
    pub key: Vec<String>,
    pub kind: DifferenceKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// The target lacks it.
    Missing,
    /// The target has it with other values.
    Different,
    /// Only the target has it.
    Surplus,
}

impl TableReport {
    /// Nothing known yet.
    pub fn new(table: TableName) -> Self {
        Self {
            table,
            verdict: Verdict::Unknown { why: "it was not compared".into() },
            rows: 0,
            missing: 0,
            different: 0,
            surplus: 0,
            unsettled: 0,
            keys: Vec::new(),
            inserted: 0,
            updated: 0,
            deleted: 0,
            sent_bytes: 0,
            received_bytes: 0,
            requests: 0,
            seconds: 0.0,
            note: None,
        }
    }

    /// Differences that were found, whether or not they are repaired by now.
    pub fn differences(&self) -> u64 {
        self.missing + self.different + self.surplus
    }

    pub fn repaired(&self) -> u64 {
        self.inserted + self.updated + self.deleted
    }

    /// What it comes to, in the history's words.
    pub fn result(&self) -> &'static str {
        match &self.verdict {
            Verdict::Equal if self.repaired() > 0 => "repaired",
            other => other.word(),
        }
    }

    /// Counts a difference, and lists it while there is room.
    pub fn add(&mut self, difference: Difference, limit: usize) {
        *match difference.kind {
            DifferenceKind::Missing => &mut self.missing,
            DifferenceKind::Different => &mut self.different,
            DifferenceKind::Surplus => &mut self.surplus,
        } += 1;
        if self.keys.len() < limit {
            self.keys.push(difference);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_back_from_its_json_with_the_verdict_as_one_word() {
        let mut report = TableReport::new(TableName::new("public", "t"));
        report.add(Difference { key: vec!["7".into()], kind: DifferenceKind::Surplus }, 1);
        report.add(Difference { key: vec!["8".into()], kind: DifferenceKind::Missing }, 1);
        for (verdict, word) in [
            (Verdict::Equal, r#""verdict":"equal""#),
            (Verdict::Different, r#""verdict":"different""#),
            (Verdict::Unknown { why: "gone".into() }, r#""verdict":"unknown","why":"gone""#),
        ] {
            report.verdict = verdict;
            let text = serde_json::to_string(&report).unwrap();
            assert!(text.contains(word), "{text}");
            assert_eq!(serde_json::from_str::<TableReport>(&text).unwrap(), report);
        }
        assert_eq!((report.differences(), report.keys.len()), (2, 1), "all are counted, one is listed");
    }
}
