//! One table's comparison, from the first look to the verdict. Its steps are in `walk` (where do the sides differ?),
//! `prove` (does this row differ?) and `repair`.

use tokio::sync::watch;
use tokio::time::Instant;

use super::part::{Key, sorts_alike};
use super::prove::{Found, prove};
use super::source::Source;
use super::target::{Target, Trouble};
use super::{Inlet, Settings};
use crate::pg::Client;
use crate::types::{Difference, Fault, Phase, Progress, Table, TableReport, Verdict};

/// Found differences that are held before they are repaired: about 10 MB. All surplus rows among them go before the
/// others come, so that a unique value is free when it is wanted elsewhere.
const HELD: usize = 100_000;

pub struct Check<'a> {
    pub(super) settings: &'a Settings,
    pub(super) table: &'a Table,
    pub(super) source: Source<'a>,
    pub(super) target: Target<'a>,
    /// The way into the stream, if what differs is to be repaired.
    pub(super) inlet: Option<&'a Inlet>,
    /// A table whose copy is not finished: what cannot be settled is written all the same.
    pub(super) heals: bool,
    pub(super) report: TableReport,
    pub(super) found: Vec<Found>,
    /// Differences that are left after the repair.
    pub(super) left: u64,
    teller: &'a Teller<'a>,
    begun: Instant,
}

/// Whom to tell how far it is.
pub struct Teller<'a> {
    pub progress: &'a watch::Sender<Option<Progress>>,
    pub tables_done: usize,
    pub tables: usize,
}

/// What a table is checked with.
pub struct Tools<'a> {
    pub settings: &'a Settings,
    pub client: &'a Client,
    pub inlet: Option<&'a Inlet>,
    pub repair: bool,
    pub heals: bool,
}

/// Compares one table, and repairs it if the tools say so.
pub async fn check(tools: &Tools<'_>, table: &Table, teller: &Teller<'_>) -> TableReport {
    let Tools { settings, client, inlet, repair, heals } = *tools;
    let begun = Instant::now();
    let mut report = TableReport::new(table.name.clone());
    let source = match Source::new(client, table, settings.marks).await {
        Ok(source) => source,
        Err(fault) => {
            report.verdict = Verdict::Unknown { why: fault.to_string() };
            return report;
        }
    };
    let reached = inlet.map(Inlet::reached);
    let target = Target::new(settings, client, table, reached, heals);
    let inlet = inlet.filter(|_| repair);
    let mut check =
        Check { settings, table, source, target, inlet, heals, report, found: Vec::new(), left: 0, teller, begun };
    let end = check.whole().await;
    check.finish(end)
}

impl Check<'_> {
    async fn whole(&mut self) -> Result<(), Trouble> {
        if self.table.key.is_empty() {
            return self.whole_table().await;
        }
        let look = self.target.look().await?;
        if !look.missing.is_empty() {
            let columns = look.missing.join(", ");
            return Err(Fault::retry(format!("columns are missing in the target: {columns}")).into());
        }
        let sorted = self.source.key_types().zip(&look.key_types).all(|(ours, theirs)| sorts_alike(ours, theirs));
        match sorted {
            true => self.walk_ranges().await?,
            false => self.walk_buckets(look.blocks).await?,
        }
        self.repair().await
    }

    /// Rows that seem to differ: finds out which do, and holds them until they are repaired.
    pub(super) async fn suspect(&mut self, keys: Vec<Key>) -> Result<(), Trouble> {
        let proved = prove(&self.source, &mut self.target, keys).await?;
        for found in &proved.found {
            let difference = Difference { key: found.key.clone(), kind: found.kind };
            self.report.add(difference, self.settings.listed);
        }
        self.found.extend(proved.found);
        self.unsettled(proved.unsettled).await?;
        if self.found.len() >= HELD {
            self.repair().await?;
        }
        Ok(())
    }

    /// So many rows of the source are done since `begun`: tells it, and waits when that was faster than allowed.
    pub(super) async fn pace(&mut self, rows: u64, begun: Instant) {
        self.report.rows += rows;
        self.tell(Phase::Comparing);
        self.settings.slow(rows, begun).await;
    }

    pub(super) fn tell(&self, phase: Phase) {
        self.teller.progress.send_replace(Some(Progress {
            table: self.table.name.clone(),
            phase,
            rows_done: self.report.rows,
            rows_estimated: self.table.estimated_rows,
            differences: self.report.differences(),
            seconds: self.begun.elapsed().as_secs_f64(),
            tables_done: self.teller.tables_done,
            tables: self.teller.tables,
        }));
    }

    fn finish(mut self, end: Result<(), Trouble>) -> TableReport {
        self.tell(Phase::Finished);
        let mut report = self.report;
        let cost = self.target.cost();
        (report.sent_bytes, report.received_bytes, report.requests) = (cost.sent, cost.received, cost.requests);
        report.seconds = self.begun.elapsed().as_secs_f64();
        report.note = report.note.or(self.target.note());
        // Without a repair, all that was found is left.
        self.left += self.found.len() as u64;
        report.verdict = match end {
            Err(Trouble::TooMuch) => {
                Verdict::Unknown { why: "the target takes too long for the least question".into() }
            }
            Err(Trouble::Fault(fault)) => Verdict::Unknown { why: fault.to_string() },
            Ok(()) if self.left > 0 => Verdict::Different,
            Ok(()) if report.unsettled > 0 => {
                let why = format!("{} rows changed as often as they were looked at", report.unsettled);
                Verdict::Unknown { why }
            }
            Ok(()) => Verdict::Equal,
        };
        report
    }
}
