//! All that is known of both sides when the checks begin: they judge this, and ask nobody.

use std::net::IpAddr;

use super::facts::{self, Facts};
use super::finding::Trouble;
use super::listing::Listing;
use crate::capture::slot::restricted::Restricted;
use crate::config::{Problem, Settings};
use crate::ledger::journal::Plan;
use crate::pg::Url;
use crate::pg::catalog::LeftOut;
use crate::pg::replication::System;
use crate::rest::Failure;
use crate::types::{Fault, Table, TableName};

pub struct Case {
    pub settings: Settings,
    /// Why the key in the settings will not do.
    pub key: Option<Problem>,
    /// Files with secrets that others may read, and their modes.
    pub readable: Vec<(String, u32)>,
    pub listen: Listen,
    pub source: Result<Source, Trouble>,
    pub target: Target,
    /// What the names of both ends resolve to.
    pub source_addresses: Vec<IpAddr>,
}

/// The page's address.
pub enum Listen {
    Free,
    /// A Lockstep answers there.
    Ours,
    Refused(Fault),
}

pub struct Source {
    pub url: Url,
    pub facts: Facts,
    pub clock: Clock,
    /// The chosen tables, with the chosen columns.
    pub tables: Vec<Table>,
    pub left_out: Vec<LeftOut>,
    /// Those of them that the publication shows only in part.
    pub restricted: Vec<Restricted>,
    /// Foreign tables and the like, in the chosen schemas.
    pub not_tables: Vec<(TableName, &'static str)>,
    /// What is wrong with the choice itself.
    pub choice: Vec<Fault>,
    /// Whether a walsender answers there.
    pub replication: Result<System, Fault>,
    /// What the journal lacks, where changes are captured by it.
    pub journal: Option<Result<Plan, Fault>>,
    /// `lockstep schema`, read where a table is missing over there.
    pub script: Option<String>,
}

pub struct Target {
    pub rest: Rest,
    /// Its catalogs, through our door or a direct connection.
    pub facts: Option<Facts>,
    /// What PostgREST tells of each schema, where the catalogs cannot be read.
    pub listing: Option<Listing>,
    /// Whether PostgREST serves the schemas of the chosen tables: (schema, exposed).
    pub exposed: Vec<(String, bool)>,
    pub clock: Option<Clock>,
    /// A direct connection was asked for, and this came of it.
    pub direct: Option<Result<(), Fault>>,
}

/// What the REST end answered when our door was called.
pub enum Rest {
    /// Address or key are not there, or will not do.
    NotSet(Trouble),
    Failed(Failure),
    Works,
}

/// A clock against ours, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// How far it is ahead.
    pub ahead: f64,
    pub round_trip: f64,
}

impl Clock {
    /// By what it said between two moments of ours.
    pub fn read(said: f64, before: f64, after: f64) -> Self {
        Self { ahead: said - (before + after) / 2.0, round_trip: after - before }
    }
}

/// A chosen table on both sides.
pub struct Pair<'a> {
    pub table: &'a Table,
    pub here: &'a facts::Table,
    pub there: &'a facts::Table,
}

impl Case {
    /// The source's catalogs. The runner asks only where they are there.
    pub fn here(&self) -> Option<(&Source, &Facts)> {
        self.source.as_ref().ok().map(|source| (source, &source.facts))
    }

    pub fn tables(&self) -> &[Table] {
        self.source.as_ref().map_or(&[], |source| &source.tables)
    }

    /// Every chosen table that is there on both sides.
    pub fn pairs(&self) -> Vec<Pair<'_>> {
        let (Some((source, here)), Some(there)) = (self.here(), &self.target.facts) else { return Vec::new() };
        let both = |table| Some(Pair { table, here: here.table(&table.name)?, there: there.table(&table.name)? });
        source.tables.iter().filter_map(both).collect()
    }

    /// Whether the target's triggers and foreign keys act on replicated rows.
    pub fn target_acts(&self) -> bool {
        let may = self.target.facts.as_ref().and_then(|facts| facts.may_suppress).unwrap_or(true);
        self.settings.apply.triggers == crate::config::Triggers::Fire || !may
    }
}
