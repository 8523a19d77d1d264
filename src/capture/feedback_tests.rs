use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

#[test]
fn nothing_beyond_the_checkpoint_is_confirmed() {
    let mut feedback = Feedback::new(Position::at(Lsn(100)), Lsn(100));
    feedback.handed(Position::at(Lsn(250)));
    feedback.sent(Lsn(300));
    assert_eq!(feedback.confirm(), Lsn(100), "confirmed what is only handed on");
    feedback.checkpoint(Position { major: 220, minor: 5 });
    assert_eq!(feedback.confirm(), Lsn(220), "half a transaction must be sent again");
    feedback.checkpoint(Position::at(Lsn(250)));
    assert_eq!(feedback.confirm(), Lsn(250), "the target's checkpoint says nothing of what lies behind it");
}

#[test]
fn a_mark_follows_what_was_read_and_never_splits_a_transaction() {
    let mut feedback = Feedback::new(Position::at(Lsn(100)), Lsn(100));
    assert_eq!(feedback.mark(), None);
    feedback.sent(Lsn(300));
    feedback.reading(true);
    assert_eq!(feedback.mark(), None, "a transaction is half read");
    feedback.handed(Position::at(Lsn(290)));
    feedback.reading(false);
    assert_eq!(feedback.mark(), Some(Position::at(Lsn(300))));
    feedback.handed(Position::at(Lsn(300)));
    assert_eq!(feedback.mark(), None, "one mark is enough");
}

#[test]
fn a_restart_never_tells_the_slot_less_than_it_knows() {
    let mut feedback = Feedback::new(Position::at(Lsn(100)), Lsn(500));
    assert_eq!(feedback.confirm(), Lsn(500));
}

/// One thing that happens; the model turns it into something possible.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A transaction commits at the source, so far behind the last.
    Commit { gap: u64, parts: u64 },
    /// Another table's WAL, and the server's word that it has sent up to its end.
    Sent { gap: u64 },
    /// The reader takes the next part off the wire.
    Read,
    /// The reader hands on a mark, if there is reason to.
    Mark,
    /// The target commits the next part that was handed on.
    Apply,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..50_u64, 1..4_u64).prop_map(|(gap, parts)| Event::Commit { gap, parts }),
        (1..50_u64).prop_map(|gap| Event::Sent { gap }),
        Just(Event::Read),
        Just(Event::Read),
        Just(Event::Mark),
        Just(Event::Apply),
        Just(Event::Apply),
    ]
}

/// What the stream carries, in order.
#[derive(Clone, Copy, Debug)]
enum Item {
    Begin,
    Part { commit: Lsn, end: Position },
    Sent(Lsn),
}

/// The world around the arithmetic. It knows what feedback is not told: which commits the target lacks.
struct World {
    wal: u64,
    wire: VecDeque<Item>,
    /// Parts, with their commit, and marks.
    in_flight: VecDeque<(Option<Lsn>, Position)>,
    /// Starts of the commit records of which the target lacks any part.
    lacking: VecDeque<Lsn>,
    last_sent: Lsn,
    feedback: Feedback,
}

impl World {
    fn after(&mut self, event: Event) {
        match event {
            Event::Commit { gap, parts } => {
                let commit = self.wal + gap;
                self.wal = commit + 30;
                self.lacking.push_back(Lsn(commit));
                self.wire.push_back(Item::Begin);
                for part in 1..parts {
                    let end = Position { major: commit, minor: part * 10 };
                    self.wire.push_back(Item::Part { commit: Lsn(commit), end });
                }
                self.wire.push_back(Item::Part { commit: Lsn(commit), end: Position::at(Lsn(self.wal)) });
            }
            Event::Sent { gap } => {
                self.wal += gap;
                self.wire.push_back(Item::Sent(Lsn(self.wal)));
            }
            Event::Read => match self.wire.pop_front() {
                Some(Item::Begin) => self.feedback.reading(true),
                Some(Item::Part { commit, end }) => {
                    self.feedback.handed(end);
                    self.feedback.reading(end.minor != 0);
                    self.in_flight.push_back((Some(commit), end));
                }
                Some(Item::Sent(end)) => {
                    self.last_sent = end;
                    self.feedback.sent(end);
                }
                None => {}
            },
            Event::Mark => {
                if let Some(mark) = self.feedback.mark() {
                    self.feedback.handed(mark);
                    self.in_flight.push_back((None, mark));
                }
            }
            Event::Apply => {
                if let Some((commit, end)) = self.in_flight.pop_front() {
                    self.feedback.checkpoint(end);
                    if let Some(commit) = commit.filter(|_| end.minor == 0) {
                        assert_eq!(self.lacking.pop_front(), Some(commit));
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The source sends again only what commits at or behind the confirmed position: so confirm never passes the
    /// start of a commit record of which the target lacks anything, and it never goes back. Once all is applied, the
    /// marks included, it reaches what the server has sent.
    #[test]
    fn confirm_never_passes_what_the_target_lacks(events in prop::collection::vec(event(), 1..120)) {
        let feedback = Feedback::new(Position::at(Lsn(1000)), Lsn(1000));
        let (wire, in_flight, lacking) = Default::default();
        let mut world = World { wal: 1000, wire, in_flight, lacking, last_sent: Lsn(1000), feedback };
        let mut before = Lsn(0);
        for event in events {
            world.after(event);
            let confirmed = world.feedback.confirm();
            prop_assert!(confirmed >= before, "went back from {} to {}", before, confirmed);
            if let Some(&oldest) = world.lacking.front() {
                prop_assert!(confirmed <= oldest, "confirmed {}, lacking {}", confirmed, oldest);
            }
            before = confirmed;
        }
        while !(world.wire.is_empty() && world.in_flight.is_empty()) {
            world.after(Event::Read);
            world.after(Event::Apply);
        }
        world.after(Event::Mark);
        world.after(Event::Apply);
        prop_assert!(world.feedback.confirm() >= world.last_sent, "an idle route holds back WAL");
    }
}
