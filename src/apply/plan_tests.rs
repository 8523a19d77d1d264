use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;
use crate::apply::shape::Shape;
use crate::types::{Batch, Cell, Position, Relation, RelationColumn, TupleBuilder};

/// What a column holds; `None` is NULL.
type Value = Option<String>;
/// Rows by key, of two tables. `only_there` is a column that the source does not have: it survives updates, and no
/// deletion.
type Rows = BTreeMap<(u32, u8), Row>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    values: [Value; 2],
    only_there: bool,
}

#[derive(Clone, Debug)]
enum Event {
    Insert {
        table: u32,
        key: u8,
        values: [Value; 2],
    },
    /// The columns that are `None` are unchanged TOASTed values: the stream leaves them out.
    Update {
        table: u32,
        key: u8,
        values: [Option<Value>; 2],
    },
    Delete {
        table: u32,
        key: u8,
    },
    Rekey {
        table: u32,
        old: u8,
        new: u8,
        values: [Option<Value>; 2],
    },
    Truncate {
        tables: Vec<u32>,
    },
}

fn value() -> impl Strategy<Value = Value> {
    prop::option::weighted(0.9, r#"[a-z"\\{}, ]{0,4}|NULL"#)
}

fn came() -> impl Strategy<Value = [Option<Value>; 2]> {
    [prop::option::weighted(0.7, value()), prop::option::weighted(0.7, value())]
}

const KEYS: u8 = 8;

fn event() -> impl Strategy<Value = Event> {
    let (table, key) = (1..3_u32, 0..KEYS);
    prop_oneof![
        6 => (table.clone(), key.clone(), [value(), value()])
            .prop_map(|(table, key, values)| Event::Insert { table, key, values }),
        8 => (table.clone(), key.clone(), came()).prop_map(|(table, key, values)| Event::Update { table, key, values }),
        5 => (table.clone(), key.clone()).prop_map(|(table, key)| Event::Delete { table, key }),
        5 => (table, key.clone(), key, came())
            .prop_map(|(table, old, new, values)| Event::Rekey { table, old, new, values }),
        1 => prop::sample::subsequence(vec![1, 2], 1..=2).prop_map(|tables| Event::Truncate { tables }),
    ]
}

/// Plays an event in order; `None` when the source would not have accepted it.
fn play(rows: &mut Rows, event: &Event, relations: &[Arc<Relation>]) -> Option<Change> {
    let relation = |table: u32| relations[table as usize - 1].clone();
    Some(match event.clone() {
        Event::Insert { table, key, values } => {
            if rows.contains_key(&(table, key)) {
                return None;
            }
            let new = tuple(key, &values.clone().map(Some));
            rows.insert((table, key), Row { values, only_there: false });
            Change::Insert { relation: relation(table), new }
        }
        Event::Update { table, key, values } => {
            let row = rows.get_mut(&(table, key))?;
            overlay(&mut row.values, &values);
            Change::Update { relation: relation(table), old: None, new: tuple(key, &values) }
        }
        Event::Delete { table, key } => {
            rows.remove(&(table, key))?;
            Change::Delete { relation: relation(table), old: tuple(key, &[Some(None), Some(None)]) }
        }
        Event::Rekey { table, old, new, values } => {
            if rows.contains_key(&(table, new)) {
                return None;
            }
            let mut row = rows.remove(&(table, old))?;
            overlay(&mut row.values, &values);
            rows.insert((table, new), row);
            let old = Some(tuple(old, &[Some(None), Some(None)]));
            Change::Update { relation: relation(table), old, new: tuple(new, &values) }
        }
        Event::Truncate { tables } => {
            rows.retain(|(table, _), _| !tables.contains(table));
            let relations = tables.into_iter().map(relation).collect();
            Change::Truncate { relations, cascade: false, restart_identity: false }
        }
    })
}

fn overlay(values: &mut [Value; 2], came: &[Option<Value>; 2]) {
    for (value, came) in values.iter_mut().zip(came) {
        if let Some(came) = came {
            value.clone_from(came);
        }
    }
}

fn tuple(key: u8, values: &[Option<Value>; 2]) -> Tuple {
    let mut row = TupleBuilder::new();
    row.push(Cell::Text(key.to_string().as_bytes()));
    for value in values {
        row.push(match value {
            None => Cell::Unchanged,
            Some(None) => Cell::Null,
            Some(Some(text)) => Cell::Text(text.as_bytes()),
        });
    }
    row.finish()
}

fn relation(oid: u32) -> Arc<Relation> {
    let column = |name: &str| RelationColumn { name: name.into(), key: name == "id", type_oid: 25, type_modifier: -1 };
    let columns = ["id", "one", "two"].map(column).to_vec();
    Arc::new(Relation { oid, name: TableName::new("public", format!("t{oid}")), identity: b'd', columns })
}

fn shapes() -> Shapes {
    let shape = |oid: u32| Shape {
        name: TableName::new("public", format!("t{oid}")),
        columns: ["id", "one", "two"].map(str::to_owned).to_vec(),
        key: vec!["id".to_owned()],
        chosen: false,
    };
    Shapes::new(HashMap::from([(1, shape(1)), (2, shape(2))]), Position::default())
}

/// Carries out a plan as the target's function does, group by group.
fn carry_out(rows: &mut Rows, plan: &Plan) {
    let mut at = 0;
    for group in &plan.groups {
        let mut columns: Vec<Vec<Value>> = Vec::new();
        for length in &group.lengths {
            columns.push(elements(&plan.values[at..at + length]));
            at += length;
        }
        if group.op == Op::Truncate {
            let names: Vec<String> = group.tables.iter().map(|(_, name)| name.clone()).collect();
            rows.retain(|(table, _), _| !names.contains(&format!("t{table}")));
            continue;
        }
        assert!(columns.iter().all(|column| column.len() as u64 == group.rows), "a column lacks values: {group:?}");
        let table: u32 = group.table[1..].parse().unwrap();
        let mut keys = Vec::new();
        for row in 0..group.rows as usize {
            let mut cells = columns.iter().map(|column| column[row].clone());
            let number = |value: Value| value.unwrap().parse::<u8>().unwrap();
            let old = (group.op == Op::Rekey).then(|| number(cells.next().unwrap()));
            let cells: HashMap<&str, Value> = group.columns.iter().map(String::as_str).zip(cells).collect();
            let key = number(cells["id"].clone());
            // All rows of a statement are as it found them: what comes behind another one is not among them.
            for key in [Some(key), old.filter(|old| *old != key)].into_iter().flatten() {
                assert!(!keys.contains(&key), "one statement writes row {key} twice: {group:?}");
                keys.push(key);
            }
            let came = ["one", "two"].map(|name| cells.get(name).cloned());
            match group.op {
                Op::Delete => drop(rows.remove(&(table, key))),
                Op::Upsert => {
                    let whole = came.map(|value| value.expect("an upsert brings every column"));
                    let fresh = Row { values: whole.clone(), only_there: false };
                    rows.entry((table, key)).or_insert(fresh).values = whole;
                }
                Op::Patch => overlay(&mut rows.get_mut(&(table, key)).expect("the row is there").values, &came),
                Op::Rekey => {
                    let mut row = rows.remove(&(table, old.unwrap())).expect("the row is there");
                    overlay(&mut row.values, &came);
                    assert!(rows.insert((table, key), row).is_none(), "key {key} is taken");
                }
                Op::Truncate => unreachable!(),
            }
        }
    }
    assert_eq!(at, plan.values.len(), "values that no group refers to");
}

/// Reads an array literal as Postgres does, as far as ours go.
fn elements(literal: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(literal).unwrap();
    let mut rest = text.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
    let mut all = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("NULL") {
            (rest, _) = (after, all.push(None));
        } else {
            let mut value = String::new();
            let mut chars = rest.strip_prefix('"').expect("a quoted element").char_indices();
            let end = loop {
                match chars.next().expect("a closing quote") {
                    (at, '"') => break at,
                    (_, '\\') => value.push(chars.next().unwrap().1),
                    (_, other) => value.push(other),
                }
            };
            rest = &rest[end + 2..];
            all.push(Some(value));
        }
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_the_order_a_plan_leaves_what_replay_in_order_leaves(
        before in prop::collection::btree_map((1..3_u32, 0..KEYS), [value(), value()], 0..6),
        events in prop::collection::vec(event(), 0..60),
        order in prop::sample::select(vec![Order::Free, Order::Source, Order::Rows]),
    ) {
        let relations = [relation(1), relation(2)];
        let before: Rows =
            before.into_iter().map(|(key, values)| (key, Row { values, only_there: true })).collect();
        let (mut source, mut target) = (before.clone(), before);
        let changes = events.iter().filter_map(|event| play(&mut source, event, &relations)).collect();
        let batch = Batch { changes, upto: Position { major: 1, minor: 0 }, ..Batch::default() };
        let plan = plan(&batch, &mut shapes(), order, &|_| false).unwrap();
        carry_out(&mut target, &plan);
        prop_assert_eq!(source, target);
    }
}

#[test]
fn keys_that_change_apart_from_each_other_change_in_one_statement() {
    let relations = [relation(1), relation(2)];
    let mut rows: Rows = (0..4).map(|key| ((1, key), Row { values: [None, None], only_there: true })).collect();
    let rekey = |old: u8, new: u8| Event::Rekey { table: 1, old, new, values: [Some(None), Some(None)] };
    let groups = |rows: &mut Rows, events: &[Event]| {
        let changes = events.iter().filter_map(|event| play(rows, event, &relations)).collect();
        let batch = Batch { changes, upto: Position { major: 1, minor: 0 }, ..Batch::default() };
        let plan = plan(&batch, &mut shapes(), Order::Free, &|_| false).unwrap();
        plan.groups.iter().map(|group| group.rows).collect::<Vec<_>>()
    };
    assert_eq!(groups(&mut rows, &[rekey(0, 10), rekey(1, 11), rekey(2, 12)]), [3]);
    // The third takes the place that the first has left.
    assert_eq!(groups(&mut rows, &[rekey(10, 20), rekey(11, 21), rekey(12, 10)]), [2, 1]);
}
