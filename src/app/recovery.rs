//! Whether the stream can go on from the checkpoint, and if not, the way back: a slot that begins now, and every table
//! compared and repaired from there. Nothing is skipped in silence, and nothing is dropped and copied anew.

use std::fmt;

use tracing::{info, warn};

use crate::pg::{self, Client};
use crate::remedy;
use crate::types::{Fault, Lsn, Position};

/// What both sides say about the history that the checkpoint belongs to.
#[derive(Clone, Debug)]
pub struct Facts {
    pub checkpoint: Position,
    /// The timeline on which the checkpoint was made; not known to targets of an earlier version.
    pub known_timeline: Option<u32>,
    pub timeline: u32,
    /// The source's WAL ends here.
    pub wal_end: Lsn,
    pub slot: Option<SlotFacts>,
    pub publication: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct SlotFacts {
    pub confirmed: Lsn,
    /// The source has removed WAL that it needs.
    pub lost: bool,
}

/// Why the stream cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    SlotGone,
    JournalGone,
    /// The settings name the other capture.
    OtherCapture {
        is: &'static str,
    },
    SlotLost,
    PublicationGone,
    /// The source has forgotten what the target lacks: the target was restored, or somebody else moved the slot.
    TargetBehind {
        confirmed: Lsn,
    },
    /// The target holds what the source never had or has lost: the source was restored.
    TargetAhead {
        wal_end: Lsn,
    },
    /// A standby has taken over; what it had not received is in the target and not in the source.
    OtherTimeline {
        was: u32,
        is: u32,
    },
}

/// What stands against going on; `None`: nothing does. A route that never held anything has nothing to lose.
pub fn judge(facts: &Facts) -> Option<Broken> {
    let fresh = facts.checkpoint == Position::default();
    let Some(slot) = facts.slot else { return (!fresh).then_some(Broken::SlotGone) };
    let Facts { timeline, wal_end, .. } = *facts;
    match facts.known_timeline {
        _ if slot.lost => Some(Broken::SlotLost),
        _ if !facts.publication => Some(Broken::PublicationGone),
        _ if fresh => None,
        Some(was) if was != timeline => Some(Broken::OtherTimeline { was, is: timeline }),
        _ if facts.checkpoint.lsn() > wal_end => Some(Broken::TargetAhead { wal_end }),
        // We confirm the checkpoint and nothing else, so by itself the slot is never ahead.
        _ if slot.confirmed > facts.checkpoint.lsn() => Some(Broken::TargetBehind { confirmed: slot.confirmed }),
        _ => None,
    }
}

impl Broken {
    /// One word for a label.
    pub fn word(self) -> &'static str {
        match self {
            Self::SlotGone => "slot_gone",
            Self::JournalGone => "journal_gone",
            Self::OtherCapture { .. } => "other_capture",
            Self::SlotLost => "slot_lost",
            Self::PublicationGone => "publication_gone",
            Self::TargetBehind { .. } => "target_behind",
            Self::TargetAhead { .. } => "target_ahead",
            Self::OtherTimeline { .. } => "other_timeline",
        }
    }

    /// Whether the slot that is there is of no use any more.
    fn slot_is_useless(self) -> bool {
        matches!(self, Self::SlotLost | Self::PublicationGone)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SlotGone => write!(f, "the slot is gone from the source"),
            Self::JournalGone => write!(f, "the journal is gone from the source, or was made anew"),
            Self::OtherCapture { is } => {
                write!(f, "changes are captured another way now ({is}), with positions of its own")
            }
            Self::SlotLost => {
                write!(f, "the slot is lost: the source has removed WAL that it needs (max_slot_wal_keep_size)")
            }
            Self::PublicationGone => write!(f, "the publication was dropped, and the slot cannot go on without it"),
            Self::TargetBehind { confirmed } => write!(
                f,
                "the slot has moved on to {confirmed}, past the target's checkpoint: Supabase was restored from a \
                 backup, or somebody else has read the slot"
            ),
            Self::TargetAhead { wal_end } => {
                write!(f, "the source's WAL ends at {wal_end}, before the target's checkpoint: the source was restored")
            }
            Self::OtherTimeline { was, is } => write!(
                f,
                "the source is on timeline {is} and the checkpoint on {was}: a standby took over, or it was restored"
            ),
        }
    }
}

const FACTS: &str = "select s.confirmed_flush_lsn::text, coalesce(s.wal_status, '') = 'lost', \
     exists (select from pg_publication where pubname = $2), pg_current_wal_insert_lsn()::text, \
     ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int4 \
     from (select) one left join pg_replication_slots s on s.slot_name = $1";

/// Reads what the source says. A standby has no such facts, and is refused elsewhere.
pub async fn facts(source: &Client, slot: &str, publication: &str) -> Result<Option<Facts>, Fault> {
    let fault = |error: tokio_postgres::Error| pg::client::fault(&error);
    let standby = source.query_one("select pg_is_in_recovery()", &[]).await.map_err(fault)?;
    if standby.get(0) {
        return Ok(None);
    }
    let row = source.query_one(FACTS, &[&slot, &publication]).await.map_err(fault)?;
    let lsn = |text: String| text.parse::<Lsn>().map_err(Fault::retry);
    let lost: Option<bool> = row.get(1);
    let slot = match row.get::<_, Option<String>>(0) {
        Some(confirmed) => Some(SlotFacts { confirmed: lsn(confirmed)?, lost: lost.unwrap_or(false) }),
        None => None,
    };
    Ok(Some(Facts {
        checkpoint: Position::default(),
        known_timeline: None,
        timeline: row.get::<_, i32>(4) as u32,
        wal_end: lsn(row.get(3))?,
        slot,
        publication: row.get(2),
    }))
}

/// Makes room for a slot that begins now. What cannot be done without leave is said.
pub async fn make_room(source: &Client, slot: &str, broken: Broken, may: bool) -> Result<(), Fault> {
    let drop = remedy::drop_slot(slot);
    // What is made anew elsewhere says itself what it may not.
    let elsewhere = matches!(broken, Broken::JournalGone | Broken::OtherCapture { .. });
    let stays =
        matches!(broken, Broken::TargetBehind { .. } | Broken::TargetAhead { .. } | Broken::OtherTimeline { .. });
    if !may && !stays && !elsewhere {
        let sql = if broken.slot_is_useless() { format!("{drop}; ") } else { String::new() };
        return Err(Fault::stop(
            format!("{broken}"),
            format!("{sql}{}; then both sides are compared and repaired", remedy::create_slot(slot, 0)),
        ));
    }
    let metrics = crate::metrics::get();
    metrics.recoveries.with_label_values(&[broken.word()]).inc();
    metrics.recovered.set(broken.word(), jiff::Timestamp::now().as_second() as f64);
    warn!(cause = %broken, "recovering: the stream begins anew, and every table is compared and repaired");
    if broken.slot_is_useless() {
        source.batch_execute(&drop).await.map_err(|error| pg::client::fault(&error))?;
        info!(%slot, "dropped the slot: it could not go on");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            checkpoint: Position::at(Lsn(100)),
            known_timeline: Some(1),
            timeline: 1,
            wal_end: Lsn(200),
            slot: Some(SlotFacts { confirmed: Lsn(100), lost: false }),
            publication: true,
        }
    }

    #[test]
    fn the_stream_goes_on_only_where_both_sides_speak_of_one_history() {
        let slot = |confirmed: u64, lost| Some(SlotFacts { confirmed: Lsn(confirmed), lost });
        let now = facts();
        for (facts, expected) in [
            (facts(), None),
            (Facts { slot: slot(40, false), ..now.clone() }, None),
            (Facts { known_timeline: None, timeline: 3, ..now.clone() }, None),
            (Facts { slot: None, ..now.clone() }, Some(Broken::SlotGone)),
            (Facts { slot: None, checkpoint: Position::default(), ..now.clone() }, None),
            (Facts { checkpoint: Position::default(), timeline: 2, ..now.clone() }, None),
            (Facts { slot: slot(100, true), ..now.clone() }, Some(Broken::SlotLost)),
            (Facts { publication: false, ..now.clone() }, Some(Broken::PublicationGone)),
            (Facts { slot: slot(101, false), ..now.clone() }, Some(Broken::TargetBehind { confirmed: Lsn(101) })),
            (Facts { wal_end: Lsn(99), ..now.clone() }, Some(Broken::TargetAhead { wal_end: Lsn(99) })),
            (Facts { timeline: 2, ..now.clone() }, Some(Broken::OtherTimeline { was: 1, is: 2 })),
        ] {
            assert_eq!(judge(&facts), expected, "{facts:?}");
        }
    }
}
