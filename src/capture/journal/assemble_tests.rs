//! What the journal's rows come to: the events that a slot gives for the same statements.

use super::*;
use crate::types::{Cell, RelationColumn, TableName};

fn known() -> Arc<Known> {
    let column = |name: &str, key| RelationColumn { name: name.into(), key, type_oid: 25, type_modifier: -1 };
    let columns = vec![column("v", false), column("id", true)];
    let relation = Relation { oid: 7, name: TableName::new("public", "t"), identity: b'd', columns };
    Arc::new(Known { relation: Arc::new(relation), key: vec![1] })
}

fn row<'a>(op: u8, key: Option<&'a str>, line: Option<&'a str>) -> Row<'a> {
    Row { op, known: (op != b'm').then(known), key, line }
}

fn text(tuple: &Tuple) -> String {
    let cell = |cell: Cell<'_>| match cell {
        Cell::Text(text) => String::from_utf8_lossy(text).into_owned(),
        _ => "-".into(),
    };
    tuple.cells().map(cell).collect::<Vec<_>>().join(" ")
}

fn told(change: &Change) -> String {
    match change {
        Change::Insert { new, .. } => format!("insert {}", text(new)),
        Change::Update { old: None, new, .. } => format!("update {}", text(new)),
        Change::Update { old: Some(old), new, .. } => format!("update {} to {}", text(old), text(new)),
        Change::Delete { old, .. } => format!("delete {}", text(old)),
        Change::Truncate { relations, restart_identity: false, .. } => format!("truncate {}", relations.len()),
        Change::Truncate { relations, .. } => format!("truncate {} and restart", relations.len()),
        Change::Message { content } => format!("message {}", String::from_utf8_lossy(content)),
    }
}

fn read(rows: Vec<Row<'_>>, skip: u64, part_bytes: usize) -> Vec<Transaction> {
    let mut open = Open::new(1 << 32 | 5, Lsn(90), 1, skip, part_bytes);
    let mut out: Vec<Transaction> = rows.into_iter().flat_map(|row| open.take(row).unwrap()).collect();
    out.extend(open.end().unwrap());
    out
}

fn changes(rows: Vec<Row<'_>>) -> Vec<String> {
    read(rows, 0, usize::MAX).iter().flat_map(|one| one.changes.iter().map(told)).collect()
}

#[test]
fn rows_become_the_events_of_a_slot() {
    let found = changes(vec![
        row(b'i', None, Some("(a,1)")),
        row(b'u', None, Some("(,1)")),
        row(b'd', Some("(1)"), None),
        row(b't', None, None),
        row(b't', None, None),
        row(b'm', None, Some("{}")),
    ]);
    assert_eq!(found, ["insert a 1", "update - 1", "delete - 1", "truncate 2", "message {}"]);
}

#[test]
fn rows_that_change_their_keys_are_updates_one_by_one() {
    let rows = vec![
        row(b'k', Some("(2)"), Some("(a,3)")),
        row(b'k', Some("(1)"), Some("(b,2)")),
        row(b'u', None, Some("(c,9)")),
    ];
    assert_eq!(changes(rows), ["update - 2 to a 3", "update - 1 to b 2", "update c 9"]);
}

#[test]
fn tables_that_one_statement_emptied_restart_together_or_not_at_all() {
    let of = |lines: &[Option<&'static str>]| {
        let rows = lines.iter().map(|line| row(b't', None, *line));
        changes(rows.collect())
    };
    assert_eq!(of(&[None, Some("restart"), None]), ["truncate 3 and restart"]);
    assert_eq!(of(&[Some("restart"), Some("go on")]), ["truncate 2"]);
    assert_eq!(of(&[Some("go on"), None, Some("restart")]), ["truncate 3"]);
}

#[test]
fn a_large_transaction_travels_in_parts_and_goes_on_where_it_was_cut() {
    let rows = || (0..5).map(|_| row(b'i', None, Some("(a,1)"))).collect::<Vec<_>>();
    let parts = read(rows(), 0, 1);
    let ends: Vec<(u64, u64)> = parts.iter().map(|part| (part.end.major, part.end.minor)).collect();
    assert_eq!(ends, [(90, 1), (90, 2), (90, 3), (90, 4), (91, 0)]);
    assert!(parts.iter().all(|part| part.xid == 5 && part.changes.len() == 1));
    let rest = read(rows(), 3, 1);
    assert_eq!(rest.iter().map(|part| part.end.minor).collect::<Vec<_>>(), [4, 0]);
    let end = read(rows(), 5, 1);
    assert_eq!((end.len(), end[0].end, end[0].changes.len()), (1, end_of(Lsn(90)), 0), "its end is told all the same");
}

#[test]
fn a_half_that_is_gone_is_no_end() {
    assert!(Open::new(1, Lsn(90), 1, 3, 1).end().is_err());
    assert!(Open::new(1, Lsn(90), 1, 0, 1).end().unwrap().is_empty());
}
