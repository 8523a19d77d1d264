//! Transactions that are too large for one request: their parts are laid down in the target as they come, and a last
//! request applies them all, in one transaction. Nobody there sees half of it.
//!
//! What is laid down is not part of the route's state: after a crash on either side the checkpoint is where it was, the
//! source sends the transaction again, and what lies there is thrown away. Beyond `whole_bytes`, or when a row of it is
//! refused, a transaction is applied part by part: still exactly once, no longer as one, and counted.

use serde::Serialize;
use tracing::{info, warn};

use super::answer::Answer;
use super::plan::Plan;
use super::send::{self, Mode, Request};
use super::{Apply, Prepared};
use crate::types::{Batch, Fault};

/// Parts that lie in the target.
pub struct Staged {
    /// The transaction that the first part belongs to.
    major: u64,
    bytes: usize,
    header: Header,
    /// What the parts are, without their rows: counted once they are applied.
    parts: Vec<Prepared>,
}

/// How the last request names them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Header {
    pub run: String,
    /// Of how many pieces each part is made.
    pub parts: Vec<u32>,
}

impl Apply {
    /// Whether a batch that ends within a transaction waits for the rest of it.
    pub(super) fn waits_for_more(&self, batch: &Batch) -> bool {
        let (base, upto) = (self.reached.base, batch.upto);
        let begun = base.minor > 0 && base.major == upto.major;
        upto.minor > 0 && !begun && !self.settings.limits.is_split(upto.major)
    }

    /// Lays a part down in the target. Gives it back when there is no room for it: then it is applied, and what lies
    /// there with it.
    pub(super) async fn stage(&mut self, mut prepared: Prepared) -> Result<Option<Prepared>, Fault> {
        if prepared.plan.groups.is_empty() && prepared.batch.copied.is_empty() {
            return Ok(None);
        }
        let staged = self.staged.get_or_insert_with(|| Staged {
            major: prepared.batch.upto.major,
            bytes: 0,
            header: Header { run: self.settings.limits.ticket(), parts: Vec::new() },
            parts: Vec::new(),
        });
        let bytes = prepared.plan.values.len();
        if staged.bytes + bytes > self.settings.whole_bytes {
            info!(upto = %prepared.batch.upto, "a transaction is larger than apply.whole_bytes; it is applied in parts");
            self.settings.limits.split(prepared.batch.upto.major);
            crate::metrics::get().split_transactions.inc();
            if staged.parts.is_empty() {
                self.staged = None;
            }
            return Ok(Some(prepared));
        }
        let (base, part) = (self.reached.base, staged.header.parts.len() as u32);
        let request = Request::new(&self.settings, base, false, &prepared.batch, &prepared.plan, Mode::Whole);
        let pieces = send::stage(&self.client, &self.settings, request, &staged.header.run, part, &self.events).await?;
        staged.header.parts.push(pieces);
        staged.bytes += bytes;
        prepared.batch.changes = Vec::new();
        prepared.plan = Plan { counted: prepared.plan.counted, ..Plan::default() };
        staged.parts.push(prepared);
        Ok(None)
    }

    /// How the next request names what lies in the target.
    pub(super) fn staged_header(&self) -> Option<Header> {
        self.staged.as_ref().map(|staged| staged.header.clone())
    }

    /// The last request of a staged transaction was answered. Gives the answer back when it is like any other's.
    pub(super) fn staged_answered(&mut self, answer: Answer) -> Result<Answer, Fault> {
        let Some(staged) = self.staged.take() else { return Ok(answer) };
        let cause = match answer {
            Answer::Applied { .. } | Answer::Duplicate => {
                for part in &staged.parts {
                    self.count(part);
                }
                crate::metrics::get().staged_transactions.inc();
                return Ok(answer);
            }
            Answer::Gap { .. } => return Ok(answer),
            Answer::Unstaged => {
                return Err(Fault::retry("what was staged is not in the target any more; it is sent again"));
            }
            Answer::Late => "the target took too long for it".to_owned(),
            Answer::Refused(refusal) | Answer::Missing(refusal) | Answer::Overflow(refusal) => refusal.to_string(),
        };
        warn!(%cause, "a large transaction cannot be applied as one; it is applied in parts");
        self.settings.limits.split(staged.major);
        crate::metrics::get().split_transactions.inc();
        Err(Fault::retry("a large transaction is read again, to be applied in parts"))
    }
}
