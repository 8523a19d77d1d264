//! The one rule of feedback, alone: confirm the checkpoint, and nothing else. What is confirmed the source may forget,
//! so one number too large here is lost data.
//!
//! WAL that holds nothing for us must not be kept for ever either. So the checkpoint itself moves over it: a mark
//! without changes travels the same way as every change, behind all of them, and comes back as the target's checkpoint.
//! Then a slot that is ahead of the checkpoint always means that one side was put back, and it is noticed.

use crate::types::{Lsn, Position};

/// What is known of the stream, and what follows from it.
///
/// Three facts carry the rule:
/// - The server sends transactions in commit order, and a "sent" position in its place among them: when it is read,
///   everything that committed before it was read too.
/// - A transaction is sent again if its commit record starts at or behind what was confirmed. So `(commit, n)`, a
///   transaction of which only `n` changes are applied, confirms `commit` and no more.
/// - A commit record ends at or before the next one's start, so `(end, 0)` confirms its own transaction only.
#[derive(Clone, Debug)]
pub struct Feedback {
    /// Everything the server had to send before here was read.
    sent: Lsn,
    /// End of what was handed on last.
    handed: Position,
    checkpoint: Position,
    /// A transaction has begun and was not handed on to its end.
    half_read: bool,
    confirmed: Lsn,
}

impl Feedback {
    /// `checkpoint` is where the stream resumes, `confirmed` what the slot has on record; it is never told a lower one.
    pub fn new(checkpoint: Position, confirmed: Lsn) -> Self {
        Self { sent: Lsn(0), handed: checkpoint, checkpoint, half_read: false, confirmed }
    }

    /// The server says that it has sent everything before `end`; all of it was read.
    pub fn sent(&mut self, end: Lsn) {
        self.sent = self.sent.max(end);
    }

    /// A transaction begins or ends.
    pub fn reading(&mut self, half_read: bool) {
        self.half_read = half_read;
    }

    /// A transaction, or a part of one, is on its way to the target.
    pub fn handed(&mut self, end: Position) {
        self.handed = self.handed.max(end);
    }

    /// The target holds everything up to here, durably.
    pub fn checkpoint(&mut self, at: Position) {
        self.checkpoint = self.checkpoint.max(at);
    }

    /// How far the server's WAL holds nothing more for us than what was handed on, if that is farther: the mark to hand
    /// on behind it.
    pub fn mark(&self) -> Option<Position> {
        let mark = Position::at(self.sent);
        (!self.half_read && mark > self.handed).then_some(mark)
    }

    /// What was handed on last. Nothing more was read when nothing is half read.
    pub fn read(&self) -> Option<Position> {
        (!self.half_read).then_some(self.handed)
    }

    /// What to tell the source; it never goes back.
    pub fn confirm(&mut self) -> Lsn {
        self.confirmed = self.confirmed.max(self.checkpoint.lsn());
        self.confirmed
    }
}

#[cfg(test)]
#[path = "feedback_tests.rs"]
mod tests;
