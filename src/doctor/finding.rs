//! What the doctor says: one finding for each thing that is looked at, with the exact remedy.

use std::fmt;

use serde::Serialize;

use crate::types::{Fault, TableName};

#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Stable: scripts and the page on the doctor know it by this.
    pub code: &'static str,
    pub group: Group,
    pub level: Level,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<Fix>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    Settings,
    Source,
    Target,
    Tables,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// It could not be looked at.
    Unknown,
    /// Works, but not as somebody may expect, or not for long.
    Warn,
    /// Replication does not start, stops, or is not true.
    Bad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Source,
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "at the source",
            Self::Target => "in Supabase",
        })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Needs {
    #[default]
    Nothing,
    /// The table is locked while the statement runs.
    Lock,
    /// The server must be started again.
    Restart,
}

#[derive(Clone, Debug, Serialize)]
pub struct Fix {
    /// The remedy in one line, SQL included.
    pub text: String,
    /// The statements, each run by itself; empty where the remedy is not SQL.
    pub sql: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    pub needs: Needs,
    /// Whether `--fix` runs it: no restart, no row and no rule lost, nobody's decision.
    pub safe: bool,
}

/// What a check found wrong, before it has its code.
#[derive(Clone, Debug)]
pub struct Trouble {
    pub level: Level,
    pub table: Option<TableName>,
    pub what: String,
    pub fix: Option<Fix>,
}

impl Trouble {
    pub fn bad(what: impl Into<String>) -> Self {
        Self { level: Level::Bad, table: None, what: what.into(), fix: None }
    }

    pub fn warn(what: impl Into<String>) -> Self {
        Self { level: Level::Warn, ..Self::bad(what) }
    }

    /// Nothing is wrong; this is how it is.
    pub fn ok(what: impl Into<String>) -> Self {
        Self { level: Level::Ok, ..Self::bad(what) }
    }

    pub fn unknown(what: impl Into<String>) -> Self {
        Self { level: Level::Unknown, ..Self::bad(what) }
    }

    /// A fault knows its remedy.
    pub fn fault(fault: &Fault) -> Self {
        match fault {
            Fault::Stop { cause, fix } => Self::bad(cause.clone()).by_hand(fix.clone()),
            Fault::Retry { cause } | Fault::Park { cause, .. } => Self::bad(cause.clone()),
        }
    }

    pub fn at(mut self, table: &TableName) -> Self {
        self.table = Some(table.clone());
        self
    }

    /// Statements that mend it without harm.
    pub fn sql<S: Into<String>>(mut self, side: Side, statements: impl IntoIterator<Item = S>) -> Self {
        let sql: Vec<String> = statements.into_iter().map(Into::into).collect();
        let text = format!("{side}: {};", sql.join("; "));
        self.fix = Some(Fix { text, sql, side: Some(side), needs: Needs::Nothing, safe: true });
        self
    }

    /// A remedy that is no statement.
    pub fn by_hand(mut self, text: impl Into<String>) -> Self {
        self.fix = Some(Fix { text: text.into(), sql: Vec::new(), side: None, needs: Needs::Nothing, safe: false });
        self
    }

    /// What can be done instead, or must be done beside.
    pub fn or(mut self, more: impl AsRef<str>) -> Self {
        if let Some(fix) = self.fix.as_mut().filter(|_| !more.as_ref().is_empty()) {
            let gap = if more.as_ref().starts_with(';') { "" } else { " " };
            fix.text = format!("{}{gap}{}", fix.text, more.as_ref());
        }
        self
    }

    /// The statements are too long for a line: this is said in their place.
    pub fn said(mut self, text: impl Into<String>) -> Self {
        if let Some(fix) = &mut self.fix {
            fix.text = text.into();
        }
        self
    }

    pub fn lock(mut self) -> Self {
        if let Some(fix) = &mut self.fix {
            fix.needs = Needs::Lock;
        }
        self
    }

    pub fn restart(mut self) -> Self {
        if let Some(fix) = &mut self.fix {
            fix.text = format!("{} {}", fix.text, crate::remedy::RESTART);
            (fix.needs, fix.safe) = (Needs::Restart, false);
        }
        self
    }

    /// Somebody must decide: `--fix` leaves it alone.
    pub fn decide(mut self) -> Self {
        if let Some(fix) = &mut self.fix {
            fix.safe = false;
        }
        self
    }
}

/// Everything that was found, in the order of the checks.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Of this document's shape.
    pub version: u32,
    pub lockstep: &'static str,
    /// Whether each side could be looked at.
    pub source_seen: bool,
    pub target_seen: bool,
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    /// 0 all is well, 1 something is to be mended, 2 a side could not be looked at.
    pub fn exit_code(&self) -> u8 {
        match (self.source_seen && self.target_seen, self.count(Level::Bad) + self.count(Level::Warn)) {
            (false, _) => 2,
            (true, 0) => 0,
            (true, _) => 1,
        }
    }
}
