//! What real servers send, of this version and of those of `make test-matrix`, read by our decoder and by another one.

use lockstep::capture::pgoutput::{Message, decode};
use lockstep::types::Cell;
use pg_walstream::protocol::{LogicalReplicationMessage as Theirs, LogicalReplicationParser, TupleData};

use super::cluster::Cluster;

const SCHEMA: &str = r#"
    create type mood as enum ('sad', 'glad'); create domain small as int check (value < 10);
    create schema "Odd Place";
    create table plain (id int primary key, v text, m mood, s small, n numeric(12, 3), a int[][], j json, b bytea);
    create table "Odd Place"."odd ""name" ("sel ect" int, "ü" text, primary key ("sel ect", "ü"));
    create table whole (a int, b text); alter table whole replica identity full;
    create table by_index (a int not null, b text, big text); create unique index by_index_a on by_index (a);
    alter table by_index replica identity using index by_index_a; alter table by_index alter big set storage external;
    create table parts (id int, r text, primary key (id, r)) partition by list (r);
    create table parts_a partition of parts for values in ('a'); create table parts_b partition of parts default;
    create table parent (id int primary key, v text); create table child (more int, primary key (id)) inherits (parent);
    create table none (); alter table none replica identity full;
    create publication p for all tables with (publish_via_partition_root = true);
"#;

const CHANGES: &[&str] = &[
    "insert into plain values (1, 'väl🦀', 'sad', 3, 'NaN', '{{1,null},{2,3}}', '{\"a\" : null}', '\\x00ff'); insert into plain values (2)",
    "update plain set v = null, n = 1e-3 where id = 1; update plain set id = 7 where id = 2; delete from plain where id = 1",
    "begin; insert into plain values (8); savepoint s; insert into plain values (9); rollback to s; commit",
    "insert into \"Odd Place\".\"odd \"\"name\" values (1, ''), (2, 'x'); update \"Odd Place\".\"odd \"\"name\" set \"ü\" = 'y'",
    "insert into whole values (1, 'a'), (null, null); update whole set b = 'c'; delete from whole where a is null",
    "insert into by_index values (1, 'a', repeat('big', 3000)); update by_index set b = 'c'; update by_index set a = 2",
    "insert into parts values (1, 'a'), (2, 'b'); update parts set r = 'z' where id = 1; delete from parts",
    "insert into child values (1, 'x', 2); update parent set v = 'y'; delete from parent; insert into none default values",
    "truncate plain, whole restart identity cascade; truncate parts",
    "alter table plain add column late text default 'd', drop column v; insert into plain values (100)",
    "select pg_logical_emit_message(true, 'lockstep', 'in'), pg_logical_emit_message(false, 'lockstep', 'out')",
];

#[tokio::test]
async fn what_a_server_sends_is_read_alike_by_two_decoders() {
    let cluster = Cluster::start(&[]).await;
    let sql = cluster.sql().await;
    sql.batch_execute(SCHEMA).await.unwrap();
    sql.query("select pg_create_logical_replication_slot('s', 'pgoutput')", &[]).await.unwrap();
    for change in CHANGES {
        sql.batch_execute(change).await.unwrap();
    }
    let rows = sql
        .query(
            "select data from pg_logical_slot_get_binary_changes('s', null, null,
               'proto_version', '1', 'publication_names', 'p', 'messages', 'true')",
            &[],
        )
        .await
        .unwrap();
    let mut kinds = std::collections::BTreeMap::<char, usize>::new();
    for row in &rows {
        let bytes: Vec<u8> = row.get(0);
        *kinds.entry(bytes[0] as char).or_default() += 1;
        let ours = decode(bytes.clone().into()).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
        let theirs = LogicalReplicationParser::with_protocol_version(1).parse_wal_message(&bytes).unwrap();
        same(&ours, &theirs.message);
    }
    let all: String = kinds.keys().collect();
    assert_eq!(all, "BCDIMRTUY", "every kind of message came: {kinds:?}");
}

fn same(ours: &Message, theirs: &Theirs) {
    let alike = match (ours, theirs) {
        (Message::Begin { commit, xid, .. }, Theirs::Begin { final_lsn, xid: other, .. }) => {
            commit.0 == *final_lsn && xid == other
        }
        (Message::Commit { commit, end }, Theirs::Commit { commit_lsn, end_lsn, .. }) => {
            commit.0 == *commit_lsn && end.0 == *end_lsn
        }
        (
            Message::Relation(ours),
            Theirs::Relation { relation_id, namespace, relation_name, replica_identity, columns },
        ) => {
            let both = ours.columns.iter().zip(columns);
            (ours.oid, &*ours.name.schema, &*ours.name.name) == (*relation_id, &**namespace, &**relation_name)
                && ours.identity == *replica_identity
                && ours.columns.len() == columns.len()
                && both.clone().all(|(ours, theirs)| ours.name == *theirs.name && ours.key == theirs.is_key())
                && both.clone().all(|(ours, theirs)| ours.type_oid == theirs.type_id)
                && both.clone().all(|(ours, theirs)| ours.type_modifier == theirs.type_modifier)
        }
        (Message::Insert { relation, new }, Theirs::Insert { relation_id, tuple }) => {
            relation == relation_id && cells(new) == others(tuple)
        }
        (Message::Update { relation, old, new }, Theirs::Update { relation_id, old_tuple, new_tuple, .. }) => {
            relation == relation_id
                && cells(new) == others(new_tuple)
                && old.as_ref().map(cells) == old_tuple.as_ref().map(others)
        }
        (Message::Delete { relation, old }, Theirs::Delete { relation_id, old_tuple, .. }) => {
            relation == relation_id && cells(old) == others(old_tuple)
        }
        (Message::Truncate { relations, cascade, restart_identity }, Theirs::Truncate { relation_ids, flags }) => {
            relations == relation_ids && u8::from(*cascade) + 2 * u8::from(*restart_identity) == *flags
        }
        (
            Message::Logical { transactional, at, prefix, content },
            Theirs::Message { flags, lsn, prefix: name, content: text },
        ) => u8::from(*transactional) == *flags && at.0 == *lsn && prefix == name.as_bytes() && content == text,
        (Message::Ignored, Theirs::Type { .. } | Theirs::Origin { .. }) => true,
        _ => false,
    };
    assert!(alike, "{ours:?}\n{theirs:?}");
}

type Cells = Vec<(u8, Vec<u8>)>;

fn cells(row: &lockstep::types::Tuple) -> Cells {
    let cell = |cell| match cell {
        Cell::Null => (b'n', Vec::new()),
        Cell::Unchanged => (b'u', Vec::new()),
        Cell::Text(text) => (b't', text.to_vec()),
    };
    row.cells().map(cell).collect()
}

fn others(row: &TupleData) -> Cells {
    row.columns.iter().map(|column| (column.data_type, column.as_bytes().to_vec())).collect()
}
