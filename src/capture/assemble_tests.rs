use proptest::prelude::*;

use super::super::encode::{encode, row};
use super::*;
use crate::types::{Cell, RelationColumn, TableName};

fn relation(oid: u32, columns: &[&str]) -> Message {
    let columns = columns
        .iter()
        .map(|&name| RelationColumn { name: name.into(), key: name == "id", type_oid: 25, type_modifier: -1 })
        .collect();
    Message::Relation(Relation { oid, name: TableName::new("public", format!("t{oid}")), identity: b'd', columns })
}

fn insert(id: u64) -> Message {
    Message::Insert { relation: 1, new: row(&[Some(&id.to_string())]) }
}

/// Transaction number `n` with so many changes: its commit record starts at `100 n` and ends 30 later.
fn transaction(n: u64, changes: u64) -> Vec<Message> {
    let commit = Lsn(100 * n);
    let mut messages = vec![Message::Begin { commit, committed_at: 0, xid: n as u32 }];
    messages.extend((0..changes).map(|change| insert(n * 1000 + change)));
    messages.push(Message::Commit { commit, end: Lsn(100 * n + 30) });
    messages
}

fn feed(assembler: &mut Assembler, messages: &[Message]) -> Result<Vec<Transaction>, Fault> {
    let mut ready = Vec::new();
    for message in messages {
        if let Step::Ready(transaction) = assembler.take(encode(message))? {
            ready.push(transaction);
        }
    }
    Ok(ready)
}

fn ids(transactions: &[Transaction]) -> Vec<u64> {
    let id = |change: &Change| match change {
        Change::Insert { new, .. } => match new.cells().next() {
            Some(Cell::Text(text)) => std::str::from_utf8(text).unwrap().parse().unwrap(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    transactions.iter().flat_map(|transaction| &transaction.changes).map(id).collect()
}

proptest! {
    /// Whatever the sizes of transactions and parts: stop after any part, start again there with parts of another
    /// size, and every change was handed on once, in order, with positions that only grow.
    #[test]
    fn a_stop_between_any_two_parts_loses_and_doubles_nothing(
        sizes in prop::collection::vec(0..12_u64, 1..8),
        part in 1..1000_usize,
        other_part in 1..1000_usize,
        stop: prop::sample::Index,
    ) {
        let stream: Vec<Message> = std::iter::once(relation(1, &["id"]))
            .chain((1..).zip(&sizes).flat_map(|(n, &changes)| transaction(n, changes)))
            .collect();
        let all: Vec<u64> = (1..).zip(&sizes).flat_map(|(n, &size)| (0..size).map(move |at| n * 1000 + at)).collect();
        let mut parts = feed(&mut Assembler::new(Position::default(), part), &stream).unwrap();
        prop_assert_eq!(&ids(&parts), &all);
        prop_assert!(parts.is_sorted_by(|a, b| a.end < b.end));
        for part in &parts {
            prop_assert_eq!(part.bytes, part.changes.iter().map(Change::size).sum::<usize>());
            prop_assert_eq!(part.is_last_part(), part.end.major == part.commit.0 + 30);
            prop_assert!(!part.changes.is_empty());
        }
        if !parts.is_empty() {
            parts.truncate(stop.index(parts.len()) + 1);
            let resume = parts.last().unwrap().end;
            // The server sends transactions whose commit record starts at or after what was confirmed.
            parts.extend(feed(&mut Assembler::new(resume, other_part), &stream).unwrap());
            prop_assert_eq!(&ids(&parts), &all);
            prop_assert!(parts.is_sorted_by(|a, b| a.end < b.end));
        }
    }
}

#[test]
fn memory_does_not_grow_with_a_transaction() {
    let mut assembler = Assembler::new(Position::default(), 1000);
    let mut largest = 0;
    let messages = std::iter::once(relation(1, &["id"])).chain(transaction(1, 5000));
    for message in messages {
        if let Step::Ready(part) = assembler.take(encode(&message)).unwrap() {
            largest = largest.max(part.bytes);
        }
        assert!(assembler.open.as_ref().is_none_or(|open| open.bytes <= 1000));
    }
    assert!((500..=1000).contains(&largest), "{largest}");
}

#[test]
fn half_a_transaction_that_does_not_come_again_is_said_and_not_skipped() {
    let resume = Position { major: 200, minor: 3 };
    let relation = [relation(1, &["id"])];
    let shrunk = [&relation[..], &transaction(2, 2)].concat();
    let gone = [&relation[..], &transaction(1, 1), &transaction(3, 1)].concat();
    for stream in [shrunk, gone] {
        let fault = feed(&mut Assembler::new(resume, 1000), &stream).unwrap_err();
        assert!(fault.to_string().contains("0/C8+3"), "{fault}");
    }
}

#[test]
fn an_exactly_finished_half_still_ends() {
    let stream = [&[relation(1, &["id"])][..], &transaction(2, 3)].concat();
    let parts = feed(&mut Assembler::new(Position { major: 200, minor: 3 }, 1000), &stream).unwrap();
    assert_eq!((parts.len(), parts[0].changes.len(), parts[0].end), (1, 0, Position::at(Lsn(230))));
}

#[test]
fn only_our_own_messages_are_handed_on() {
    let logical = |prefix: &'static str, transactional, at| Message::Logical {
        transactional,
        at: Lsn(at),
        prefix: prefix.into(),
        content: "c".into(),
    };
    let mut stream = transaction(1, 0);
    stream.splice(1..1, [logical("other", true, 90), logical("lockstep", true, 91)]);
    stream.extend([logical("other", false, 200), logical("lockstep", false, 201)]);
    let ready = feed(&mut Assembler::new(Position::default(), 1000), &stream).unwrap();
    let ends: Vec<_> = ready.iter().map(|ready| (ready.end, ready.changes.len())).collect();
    assert_eq!(ends, [(Position::at(Lsn(130)), 1), (Position::at(Lsn(201)), 1)]);
}

#[test]
fn a_table_is_the_same_until_it_changes() {
    let mut assembler = Assembler::new(Position::default(), 1000);
    feed(&mut assembler, &[relation(1, &["id"])]).unwrap();
    let first = assembler.relation(1).unwrap();
    feed(&mut assembler, &[relation(1, &["id"])]).unwrap();
    assert!(Arc::ptr_eq(&first, &assembler.relation(1).unwrap()));
    feed(&mut assembler, &[relation(1, &["id", "more"])]).unwrap();
    assert_eq!(assembler.relation(1).unwrap().columns.len(), 2);
}

#[test]
fn a_stream_without_sense_is_refused() {
    let begin = Message::Begin { commit: Lsn(1), committed_at: 0, xid: 1 };
    let commit = Message::Commit { commit: Lsn(1), end: Lsn(2) };
    let wide = Message::Insert { relation: 1, new: row(&[Some("1"), None]) };
    for stream in [
        vec![insert(1)],
        vec![relation(1, &["id"]), insert(1)],
        vec![begin.clone(), begin.clone()],
        vec![commit],
        vec![begin.clone(), Message::Commit { commit: Lsn(9), end: Lsn(10) }],
        vec![relation(1, &["id"]), begin, wide],
    ] {
        assert!(matches!(feed(&mut Assembler::new(Position::default(), 9), &stream), Err(Fault::Stop { .. })));
    }
}
