//! Looks at both sides before anything is changed, and says of each thing whether it is right, and if not, the one
//! statement or setting that mends it.
//!
//! `look` asks, the checks judge what it brought and ask nobody, `mend` runs what is safe. Where the service itself
//! stops for the same reason, the words come from where it has them (`app`, `capture`, `remedy`).

mod case;
mod checks;
mod facts;
mod finding;
mod listing;
mod look;
mod mend;

use crate::config::Capture;
use case::Case;
pub use checks::CHECKS;
use finding::Trouble;
pub use finding::{Finding, Fix, Group, Level, Needs, Report, Side};
pub use look::Ask;
pub use mend::{Mended, mend};

/// One thing that is looked at.
pub struct Check {
    /// Stable: scripts and the page on the doctor know it by this.
    pub code: &'static str,
    pub group: Group,
    /// What is so when all is well.
    pub well: &'static str,
    sees: Sees,
    run: fn(&Case) -> Vec<Trouble>,
}

/// What a check must have seen to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sees {
    /// It judges what there is.
    Anything,
    Source,
    /// The target's catalogs.
    Target,
    Both,
}

/// Looks at everything. Changes nothing.
pub async fn examine(ask: Ask) -> Report {
    judge(&look::look(ask).await)
}

fn judge(case: &Case) -> Report {
    let (source_seen, catalogs) = (case.source.is_ok(), case.target.facts.is_some());
    let mut findings = Vec::new();
    let journal = match &case.source {
        Ok(source) => source.journal.is_some(),
        Err(_) => case.settings.source.capture == Capture::Journal,
    };
    for check in CHECKS.iter().filter(|check| !(journal && checks::OF_A_SLOT.contains(&check.code))) {
        let unseen = match check.sees {
            Sees::Source | Sees::Both if !source_seen => Some("the source could not be looked at"),
            Sees::Target | Sees::Both if !catalogs => Some("Supabase could not be looked at"),
            _ => None,
        };
        let troubles = match unseen {
            None => (check.run)(case),
            Some(why) => vec![Trouble::unknown(why)],
        };
        findings.extend(finished(check, troubles));
    }
    // Without our SQL there its description is all that can be seen.
    let target_seen = catalogs || case.target.listing.is_some();
    Report { version: 1, lockstep: env!("CARGO_PKG_VERSION"), source_seen, target_seen, findings }
}

/// What a check found, with its code: never nothing.
fn finished(check: &Check, mut troubles: Vec<Trouble>) -> Vec<Finding> {
    if troubles.is_empty() {
        troubles.push(Trouble::ok(check.well));
    }
    let finding = |trouble: Trouble| Finding {
        code: check.code,
        group: check.group,
        level: trouble.level,
        table: trouble.table.map(|table| table.to_string()),
        what: trouble.what,
        fix: trouble.fix,
    };
    troubles.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests;
