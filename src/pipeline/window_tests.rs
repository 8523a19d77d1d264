use std::collections::BTreeMap;

use proptest::prelude::*;
use tokio::sync::oneshot;

use super::*;
use crate::types::{CopyMark, RelationColumn, Snapshot, TableName};

/// One thing that happens; the model turns it into something possible.
#[derive(Clone, Debug)]
enum Event {
    /// A transaction takes its number.
    Begin,
    /// One of those that have begun commits: it is in the WAL, and nobody sees it yet.
    Commit { which: usize, changes: Vec<(Op, u8, u8)> },
    /// A commit becomes visible.
    Show { which: usize },
    /// The reader takes its next step: low watermark, read, high watermark.
    Read,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Insert,
    Update,
    /// An update that leaves the TOASTed column alone: the stream does not bring it.
    Patch,
    Delete,
    Rekey,
    Truncate,
}

fn event() -> impl Strategy<Value = Event> {
    let op = prop_oneof![
        4 => Just(Op::Insert), 3 => Just(Op::Update), 4 => Just(Op::Patch), 3 => Just(Op::Delete), 2 => Just(Op::Rekey),
        1 => Just(Op::Truncate),
    ];
    prop_oneof![
        3 => Just(Event::Begin),
        4 => (0..4_usize, prop::collection::vec((op, 0..KEYS, 0..KEYS), 1..4))
            .prop_map(|(which, changes)| Event::Commit { which, changes }),
        3 => (0..4_usize).prop_map(|which| Event::Show { which }),
        6 => Just(Event::Read),
    ]
}

const KEYS: u8 = 8;
const TABLE: u32 = 42;
const ROWS_A_RANGE: usize = 3;

/// What a row holds beside its key: a small value, and one that may be stored out of line.
type Row = (u64, u64);
type Rows = BTreeMap<u8, Row>;

/// A change as the source made it; the stream knows of `big` only what was written.
#[derive(Clone, Debug)]
enum Made {
    Put { key: u8, row: Row, whole: bool },
    Gone { key: u8 },
    Moved { old: u8, new: u8, row: Row },
    Emptied,
}

fn make(rows: &mut Rows, made: &Made) {
    match *made {
        Made::Put { key, row, .. } => drop(rows.insert(key, row)),
        Made::Gone { key } => drop(rows.remove(&key)),
        Made::Moved { old, new, row } => {
            rows.remove(&old);
            rows.insert(new, row);
        }
        Made::Emptied => rows.clear(),
    }
}

/// The source, the reader, the window, and a target to which the batch is applied in order.
struct World {
    next_xid: u32,
    begun: Vec<u32>,
    /// Committed, in WAL order; `true` once visible.
    wal: Vec<(u32, Vec<Made>, bool)>,
    value: u64,
    windows: Windows,
    ranges: (mpsc::Sender<Range>, mpsc::Receiver<Range>),
    target: Rows,
    /// The source as the WAL has it so far.
    truth: Rows,
    cursor: Option<u8>,
    done: bool,
    reader: Reader,
    next_range: u64,
    read_again: u32,
}

enum Reader {
    Idle,
    Low(u64),
    Handed(u64, Option<u8>, bool, oneshot::Receiver<Merged>),
}

impl World {
    fn new() -> Self {
        let keys = HashMap::from([(TABLE, vec!["id".to_owned()])]);
        let ranges = mpsc::channel(2);
        let (target, truth) = (Rows::new(), Rows::new());
        Self {
            next_xid: 100,
            begun: Vec::new(),
            wal: Vec::new(),
            value: 0,
            windows: Windows::new(1, keys),
            ranges,
            target,
            truth,
            cursor: None,
            done: false,
            reader: Reader::Idle,
            next_range: 1,
            read_again: 0,
        }
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Begin if self.begun.len() < 4 => {
                self.begun.push(self.next_xid);
                self.next_xid += 1;
            }
            Event::Begin => {}
            Event::Commit { which, changes } => self.commit(*which, changes),
            Event::Show { which } => {
                let hidden = self.wal.iter_mut().filter(|(_, _, visible)| !visible);
                if let Some((_, _, visible)) = hidden.into_iter().nth(*which) {
                    *visible = true;
                }
            }
            Event::Read => self.read(),
        }
    }

    fn commit(&mut self, which: usize, wanted: &[(Op, u8, u8)]) {
        if self.begun.is_empty() {
            return;
        }
        let xid = self.begun.remove(which % self.begun.len());
        let mut made = Vec::new();
        for &(op, key, other) in wanted {
            self.value += 1;
            let locked = |key: u8| self.is_locked(key);
            let here = self.truth.get(&key).copied();
            let change = match (op, here) {
                (Op::Truncate, _) if !self.wal.iter().any(|(_, _, visible)| !visible) => Made::Emptied,
                (Op::Truncate, _) => continue,
                _ if locked(key) => continue,
                (Op::Insert, None) => Made::Put { key, row: (self.value, self.value), whole: true },
                (Op::Update, Some(_)) => Made::Put { key, row: (self.value, self.value), whole: true },
                (Op::Patch, Some((_, big))) => Made::Put { key, row: (self.value, big), whole: false },
                (Op::Delete, Some(_)) => Made::Gone { key },
                (Op::Rekey, Some(_)) if !locked(other) && !self.truth.contains_key(&other) => {
                    Made::Moved { old: key, new: other, row: (self.value, self.value) }
                }
                _ => continue,
            };
            make(&mut self.truth, &change);
            made.push(change);
        }
        let mut batch = Batch::default();
        for change in &made {
            let change = streamed(change);
            self.windows.note(&change);
            batch.changes.push(change);
        }
        self.windows.passed(xid);
        self.apply(&batch);
        self.wal.push((xid, made, false));
    }

    /// Whoever wants a row that a hidden transaction has changed waits until that one is visible.
    fn is_locked(&self, wanted: u8) -> bool {
        let hidden = self.wal.iter().filter(|(_, _, visible)| !visible);
        hidden.flat_map(|(_, made, _)| made).any(|made| match *made {
            Made::Put { key, .. } | Made::Gone { key } => key == wanted,
            Made::Moved { old, new, .. } => old == wanted || new == wanted,
            Made::Emptied => true,
        })
    }

    /// The reader's next step.
    fn read(&mut self) {
        match std::mem::replace(&mut self.reader, Reader::Idle) {
            Reader::Idle if self.done => {}
            Reader::Idle => {
                let range = self.next_range;
                self.next_range += 1;
                self.pass(Watermark { run: 1, high: None, low: Some((range, TABLE)) });
                self.reader = Reader::Low(range);
            }
            Reader::Low(range) => {
                let (seen, snapshot) = self.snapshot();
                let behind = |key: &u8| self.cursor.is_none_or(|cursor| *key > cursor);
                let rows: Vec<(u8, Row)> = seen.into_iter().filter(|(key, _)| behind(key)).take(ROWS_A_RANGE).collect();
                let last = rows.len() < ROWS_A_RANGE;
                let cursor = rows.last().map(|(key, _)| *key).or(self.cursor);
                let (reply, merged) = oneshot::channel();
                let rows = rows.iter().map(|&(key, row)| tuple(key, row, true)).collect();
                let table = TableName::new("public", "t");
                let mark = CopyMark { table, oid: TABLE, cursor: Vec::new(), done: last, rows: 0 };
                let range_read = range_of(range, None, rows, snapshot, Some(mark), reply);
                self.ranges.0.try_send(range_read).unwrap();
                self.reader = Reader::Handed(range, cursor, last, merged);
            }
            Reader::Handed(range, cursor, last, mut merged) => {
                self.pass(Watermark { run: 1, high: Some(range), low: None });
                match merged.try_recv().unwrap() {
                    Merged::Yes { .. } => (self.cursor, self.done) = (cursor, last),
                    Merged::ReadAgain => self.read_again += 1,
                }
                self.check();
            }
        }
    }

    fn pass(&mut self, mark: Watermark) {
        let mut batch = Batch::default();
        self.windows.pass(mark, &mut batch, &mut self.ranges.1);
        self.apply(&batch);
    }

    /// What a read sees now, and the snapshot that says so.
    fn snapshot(&self) -> (Rows, Snapshot) {
        let mut rows = Rows::new();
        let mut running = self.begun.clone();
        for (xid, made, visible) in &self.wal {
            match visible {
                true => made.iter().for_each(|made| make(&mut rows, made)),
                false => running.push(*xid),
            }
        }
        running.sort_unstable();
        let xmin = running.first().copied().unwrap_or(self.next_xid);
        let list = running.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        (rows, format!("{xmin}:{}:{list}", self.next_xid).parse().unwrap())
    }

    /// In order, as the target does: a patch of a row that is not there waits for the range that brings it.
    fn apply(&mut self, batch: &Batch) {
        for change in &batch.changes {
            match change {
                Change::Insert { new, .. } => put(&mut self.target, new),
                Change::Update { old, new, .. } => {
                    if let Some(old) = old {
                        self.target.remove(&read_back(old).0);
                    }
                    put(&mut self.target, new);
                }
                Change::Delete { old, .. } => drop(self.target.remove(&read_back(old).0)),
                Change::Truncate { .. } => self.target.clear(),
                Change::Message { .. } => {}
            }
        }
    }

    /// At a high watermark, what lies before the cursor is what the source held there.
    fn check(&self) {
        let copied = |key: &u8| self.done || self.cursor.is_some_and(|cursor| *key <= cursor);
        let truth: Rows = self.truth.clone().into_iter().filter(|(key, _)| copied(key)).collect();
        let target: Rows = self.target.clone().into_iter().filter(|(key, _)| copied(key)).collect();
        assert_eq!(target, truth, "target and source differ up to {:?}", self.cursor);
    }
}

fn range_of(
    id: u64,
    builds_on: Option<u64>,
    rows: Vec<Tuple>,
    snapshot: Snapshot,
    mark: Option<CopyMark>,
    reply: oneshot::Sender<Merged>,
) -> Range {
    Range { id, builds_on, relation: relation(), gone: Vec::new(), rows, snapshot, mark, reply }
}

fn put(target: &mut Rows, row: &Tuple) {
    let (key, small, big) = read_back(row);
    match (big, target.get(&key).copied()) {
        (Some(big), _) => drop(target.insert(key, (small, big))),
        (None, Some((_, big))) => drop(target.insert(key, (small, big))),
        (None, None) => {}
    }
}

fn relation() -> Arc<Relation> {
    let column = |name: &str| RelationColumn { name: name.into(), key: name == "id", type_oid: 0, type_modifier: -1 };
    let columns = ["id", "small", "big"].map(column).to_vec();
    Arc::new(Relation { oid: TABLE, name: TableName::new("public", "t"), identity: b'd', columns })
}

fn tuple(key: u8, (small, big): Row, whole: bool) -> Tuple {
    let mut row = TupleBuilder::new();
    row.push(Cell::Text(key.to_string().as_bytes()));
    row.push(Cell::Text(small.to_string().as_bytes()));
    let big = big.to_string();
    row.push(if whole { Cell::Text(big.as_bytes()) } else { Cell::Unchanged });
    row.finish()
}

fn read_back(row: &Tuple) -> (u8, u64, Option<u64>) {
    let number = |cell: Cell<'_>| match cell {
        Cell::Text(text) => std::str::from_utf8(text).unwrap().parse::<u64>().ok(),
        _ => None,
    };
    let cells: Vec<Option<u64>> = row.cells().map(number).collect();
    (cells[0].unwrap() as u8, cells[1].unwrap_or(0), cells[2])
}

fn streamed(made: &Made) -> Change {
    let relation = relation();
    match *made {
        Made::Put { key, row, whole } => Change::Update { relation, old: None, new: tuple(key, row, whole) },
        Made::Gone { key } => Change::Delete { relation, old: tuple(key, (0, 0), true) },
        Made::Moved { old, new, row } => {
            Change::Update { relation, old: Some(tuple(old, (0, 0), true)), new: tuple(new, row, true) }
        }
        Made::Emptied => Change::Truncate { relations: vec![relation], cascade: false, restart_identity: false },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn at_every_high_watermark_what_was_copied_is_what_the_source_held_there(
        before in prop::collection::vec(0..KEYS, 0..6),
        events in prop::collection::vec(event(), 0..80),
    ) {
        let mut world = World::new();
        // Rows that are there and visible before anything is read.
        world.take(&Event::Begin);
        world.commit(0, &before.iter().map(|&key| (Op::Insert, key, 0)).collect::<Vec<_>>());
        world.wal[0].2 = true;
        // The target begins empty: what was committed before the route began is not in its stream.
        world.target.clear();
        for event in &events {
            world.take(event);
        }
        // Left in peace, the copy ends, and with it everything is equal.
        world.wal.iter_mut().for_each(|(_, _, visible)| *visible = true);
        for _ in 0..40 {
            world.take(&Event::Read);
        }
        prop_assert!(world.done, "the copy does not end: read again {} times", world.read_again);
        prop_assert_eq!(&world.target, &world.truth);
    }
}

#[test]
fn a_range_whose_predecessor_must_be_read_again_must_be_so_too() {
    let mut world = World::new();
    let range = |id, builds_on| {
        let (reply, merged) = oneshot::channel();
        let mark =
            CopyMark { table: TableName::new("public", "t"), oid: TABLE, cursor: Vec::new(), done: false, rows: 0 };
        // Only the first one was read too early.
        let snapshot = if id == 1 { "100:100:" } else { "300:300:" }.parse().unwrap();
        (range_of(id, builds_on, Vec::new(), snapshot, Some(mark), reply), merged)
    };
    let (first, mut first_merged) = range(1, None);
    let (second, mut second_merged) = range(2, Some(1));
    world.windows.passed(200);
    for (id, range) in [(1, first), (2, second)] {
        world.pass(Watermark { run: 1, high: None, low: Some((id, TABLE)) });
        world.ranges.0.try_send(range).unwrap();
        world.pass(Watermark { run: 1, high: Some(id), low: None });
    }
    assert_eq!(first_merged.try_recv(), Ok(Merged::ReadAgain));
    assert_eq!(second_merged.try_recv(), Ok(Merged::ReadAgain));
}

/// A repair beside a copy: rows and keys that the stream touches while they are read are left to it, and told.
#[test]
fn a_repair_leaves_to_the_stream_what_it_touches_meanwhile_and_does_not_disturb_a_copy() {
    let mut world = World::new();
    world.truth = Rows::from([(1, (1, 1)), (2, (2, 2)), (3, (3, 3))]);
    world.target = Rows::from([(2, (9, 9)), (5, (5, 5)), (6, (6, 6))]);
    let now = || "300:300:".parse().unwrap();
    let copy_mark = CopyMark { table: TableName::new("public", "t"), oid: TABLE, cursor: vec![], done: false, rows: 0 };
    let (copy_reply, mut copy_merged) = oneshot::channel();
    let (reply, mut merged) = oneshot::channel();
    world.pass(Watermark { run: 1, high: None, low: Some((1, TABLE)) });
    world.pass(Watermark { run: 1, high: None, low: Some((2, TABLE)) });
    // Row 2 is written, row 6 comes into being, between the marks.
    for made in [Made::Put { key: 2, row: (4, 4), whole: true }, Made::Put { key: 6, row: (7, 7), whole: true }] {
        make(&mut world.truth, &made);
        let change = streamed(&made);
        world.windows.note(&change);
        world.apply(&Batch { changes: vec![change], ..Batch::default() });
    }
    let repair = Range {
        gone: vec![tuple(5, (0, 0), true), tuple(6, (0, 0), true)],
        ..range_of(
            2,
            None,
            vec![tuple(1, (1, 1), true), tuple(2, (2, 2), true), tuple(3, (3, 3), true)],
            now(),
            None,
            reply,
        )
    };
    world.ranges.0.try_send(range_of(1, None, Vec::new(), now(), Some(copy_mark), copy_reply)).unwrap();
    world.ranges.0.try_send(repair).unwrap();
    world.pass(Watermark { run: 1, high: Some(2), low: None });
    // The second of the keys, and the second of the rows behind both.
    assert_eq!(merged.try_recv(), Ok(Merged::Yes { left_out: vec![1, 3] }));
    assert_eq!(world.target, world.truth);
    assert!(copy_merged.try_recv().is_err(), "its mark has not come by");
    world.pass(Watermark { run: 1, high: Some(1), low: None });
    assert_eq!(copy_merged.try_recv(), Ok(Merged::Yes { left_out: vec![] }));
}

/// A row that is patched before and after an ALTER: what is known of it does not add up, and neither does the rest.
#[test]
fn a_range_beside_an_alter_of_its_table_is_read_again() {
    let mut world = World::new();
    world.pass(Watermark { run: 1, high: None, low: Some((1, TABLE)) });
    let patch = |relation: Arc<Relation>| Change::Update { relation, old: None, new: tuple(1, (5, 5), false) };
    let altered = Arc::new(Relation { name: TableName::new("public", "altered"), ..(*relation()).clone() });
    for change in [patch(relation()), patch(altered), streamed(&Made::Gone { key: 2 })] {
        world.windows.note(&change);
    }
    let (reply, mut merged) = oneshot::channel();
    let range = range_of(1, None, vec![tuple(2, (2, 2), true)], "300:300:".parse().unwrap(), None, reply);
    world.ranges.0.try_send(range).unwrap();
    world.pass(Watermark { run: 1, high: Some(1), low: None });
    assert_eq!(merged.try_recv(), Ok(Merged::ReadAgain));
    assert!(world.target.is_empty(), "a row that was deleted meanwhile does not come again");
}

/// The old row comes along where the key is stored apart or the identity is FULL, and says nothing of the new one.
#[test]
fn a_patch_that_comes_with_its_old_row_is_laid_over_the_row_that_was_read() {
    let mut world = World::new();
    world.pass(Watermark { run: 1, high: None, low: Some((1, TABLE)) });
    let (old, new) = (Some(tuple(2, (2, 2), true)), tuple(2, (7, 7), false));
    world.windows.note(&Change::Update { relation: relation(), old, new });
    let (reply, mut merged) = oneshot::channel();
    let range = range_of(1, None, vec![tuple(2, (2, 2), true)], "300:300:".parse().unwrap(), None, reply);
    world.ranges.0.try_send(range).unwrap();
    world.pass(Watermark { run: 1, high: Some(1), low: None });
    assert_eq!(merged.try_recv(), Ok(Merged::Yes { left_out: vec![] }));
    assert_eq!(world.target, Rows::from([(2, (7, 2))]));
}
