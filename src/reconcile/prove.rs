//! Proves that a row differs while both sides go on changing, by what was seen of it in turns.
//!
//! The turns: the source is read, a mark is written into the WAL, the target is read once it has passed the mark, the
//! source is read again, and so on. Then
//!
//! - a row of the source that was the same version before and after the target was read should have been there just so:
//!   all that made it had passed, and nothing happened to it meanwhile;
//! - a row that only the target has, in the same version twice, while the source was without it in between: had the
//!   stream brought it, it would also have taken it away by the second time.
//!
//! What changes as often as it is looked at is neither proved different nor equal: unsettled.

use std::time::Duration;

use super::part::Key;
use super::source::Source;
use super::target::{Target, Trouble};
use crate::types::DifferenceKind;

/// A row as one side showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub hash: String,
    /// The transaction that made this version of the row.
    pub version: String,
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub key: Key,
    pub kind: DifferenceKind,
    /// The version at the source that is not in the target; none where the source has no such row.
    pub version: Option<String>,
}

/// Looks at a row after a turn.
#[derive(Clone, Copy, Debug)]
struct Turn<'a> {
    /// The target the last time.
    earlier: Option<&'a Option<Seen>>,
    /// The source, the target behind it, the source again.
    before: &'a Option<Seen>,
    target: &'a Option<Seen>,
    after: &'a Option<Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    Equal,
    Differs(DifferenceKind),
    /// Look again.
    Open,
}

fn judge(turn: Turn<'_>) -> Judgement {
    let hash = |side: &Option<Seen>| side.as_ref().map(|seen| seen.hash.clone());
    if hash(turn.target) == hash(turn.before) || hash(turn.target) == hash(turn.after) {
        return Judgement::Equal;
    }
    match (turn.before, turn.target, turn.after) {
        (Some(before), target, Some(after)) if before == after => {
            Judgement::Differs(if target.is_some() { DifferenceKind::Different } else { DifferenceKind::Missing })
        }
        // The source was without it after the target was read for the last time, and before it was read now.
        (None, Some(now), _) if turn.earlier == Some(&Some(now.clone())) => Judgement::Differs(DifferenceKind::Surplus),
        _ => Judgement::Open,
    }
}

/// Rows that are looked at together.
const TOGETHER: usize = 2000;
/// Turns before a row counts as unsettled. A surplus row takes two; a second and a half passes in all.
const TURNS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub struct Proved {
    pub found: Vec<Found>,
    pub unsettled: Vec<Key>,
}

/// Looks at rows until it is known of each whether it differs.
pub async fn prove(source: &Source<'_>, target: &mut Target<'_>, keys: Vec<Key>) -> Result<Proved, Trouble> {
    let mut proved = Proved::default();
    for keys in keys.chunks(TOGETHER) {
        together(source, target, keys.to_vec(), &mut proved).await?;
    }
    Ok(proved)
}

async fn together(
    source: &Source<'_>,
    target: &mut Target<'_>,
    mut keys: Vec<Key>,
    proved: &mut Proved,
) -> Result<(), Trouble> {
    let mut before = source.observe(&keys).await?;
    let mut earlier: Vec<Option<Option<Seen>>> = vec![None; keys.len()];
    let mut pause = PAUSE;
    for _ in 0..TURNS {
        let mark = source.mark().await?;
        let there = target.observe(mark, &keys).await?;
        let after = source.observe(&keys).await?;
        let hidden = source.hides_commits().await?;
        let (mut open, mut open_after, mut open_there) = (Vec::new(), Vec::new(), Vec::new());
        let rows = keys.into_iter().zip(before).zip(there).zip(after).zip(earlier);
        for ((((key, before), there), after), earlier) in rows {
            let turn = Turn { earlier: earlier.as_ref(), before: &before, target: &there, after: &after };
            match judge(turn) {
                Judgement::Equal => {}
                Judgement::Differs(kind) if !hidden => {
                    let version = after.filter(|_| kind != DifferenceKind::Surplus).map(|seen| seen.version);
                    proved.found.push(Found { key, kind, version });
                }
                _ => {
                    open.push(key);
                    open_after.push(after);
                    open_there.push(Some(there));
                }
            }
        }
        (keys, before, earlier) = (open, open_after, open_there);
        if keys.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    proved.unsettled.extend(keys);
    Ok(())
}

#[cfg(test)]
#[path = "prove_tests.rs"]
mod tests;
