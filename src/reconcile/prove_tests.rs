use proptest::prelude::*;

use super::*;

fn seen(version: u64, hash: u64) -> Option<Seen> {
    Some(Seen { hash: hash.to_string(), version: version.to_string() })
}

/// One row's life: what the source held after each of its transactions, and how far the target is behind.
#[derive(Clone, Debug)]
enum Event {
    /// The source writes the row, with one of few values, so that it can be the same again.
    Put(u64),
    Gone,
    /// The target takes the next of the source's transactions.
    Apply,
    /// The next step of the one who looks.
    Look,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![2 => (0..2_u64).prop_map(Event::Put), 2 => Just(Event::Gone), 4 => Just(Event::Apply), 6 => Just(Event::Look)]
}

/// A row, its copy, and somebody who looks at both in turns.
#[derive(Default)]
struct World {
    source: Option<Seen>,
    target: Option<Seen>,
    /// Transactions of the source that the target has not taken yet.
    wal: std::collections::VecDeque<Option<Seen>>,
    written: u64,
    transactions: u64,
    applied: u64,
    step: Step,
    before: Option<Seen>,
    earlier: Option<Option<Seen>>,
    there: Option<Seen>,
}

#[derive(Default)]
enum Step {
    #[default]
    Begin,
    /// The source was read; the target must have taken so many transactions.
    Marked(u64),
    Read,
}

impl World {
    /// What the target makes of a transaction: versions are its own.
    fn apply(&mut self) -> bool {
        let Some(change) = self.wal.pop_front() else { return false };
        self.written += 1;
        self.target = change.map(|seen| Seen { version: format!("t{}", self.written), ..seen });
        self.applied += 1;
        true
    }

    fn change(&mut self, row: Option<Seen>) {
        self.transactions += 1;
        self.source = row.clone();
        self.wal.push_back(row);
    }

    fn look(&mut self) -> Option<Judgement> {
        match self.step {
            Step::Begin => {
                self.before = self.source.clone();
                self.step = Step::Marked(self.transactions);
                None
            }
            Step::Marked(mark) => {
                if self.applied >= mark {
                    self.there = self.target.clone();
                    self.step = Step::Read;
                }
                None
            }
            Step::Read => {
                let after = self.source.clone();
                let (earlier, before) = (self.earlier.take(), self.before.take());
                let turn = Turn { earlier: earlier.as_ref(), before: &before, target: &self.there, after: &after };
                let judgement = judge(turn);
                self.earlier = Some(self.there.take());
                self.before = after;
                self.step = Step::Marked(self.transactions);
                Some(judgement)
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn a_target_that_only_follows_is_never_called_different(events in prop::collection::vec(event(), 0..60)) {
        let mut world = World::default();
        for event in events {
            match event {
                Event::Put(value) => { let version = world.transactions + 1; world.change(seen(version, value)) }
                Event::Gone if world.source.is_some() => world.change(None),
                Event::Gone => {}
                Event::Apply => _ = world.apply(),
                Event::Look => {
                    let judgement = world.look();
                    prop_assert!(!matches!(judgement, Some(Judgement::Differs(_))), "{judgement:?}");
                }
            }
        }
    }
}

#[test]
fn what_differs_at_rest_is_found_out_in_two_turns_at_most() {
    use DifferenceKind::{Different, Missing, Surplus};
    for (source, target, kind) in
        [(seen(1, 1), None, Missing), (seen(1, 1), seen(7, 2), Different), (None, seen(7, 2), Surplus)]
    {
        let mut world = World { source, target, ..World::default() };
        let judgements: Vec<Judgement> = (0..5).filter_map(|_| world.look()).collect();
        assert!(judgements.contains(&Judgement::Differs(kind)), "{kind:?}: {judgements:?}");
    }
}
