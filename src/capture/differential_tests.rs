//! Our decoder beside another one (pg_walstream), which was written by other people from the same specification: what
//! both read they read alike, and where only one refuses it is ours, for a reason that is listed here.

use pg_walstream::protocol::{LogicalReplicationMessage as Theirs, LogicalReplicationParser, TupleData};
use proptest::prelude::*;

use super::encode::encode;
use super::pgoutput::{Message, decode};
use crate::pg::replication::EPOCH_MICROS;
use crate::types::{Cell, Lsn, Relation, RelationColumn, TableName, Tuple, TupleBuilder};

/// Where we are stricter: what a server never sends, and they let pass.
const STRICTER: [&str; 6] = [
    "bytes after the end of a message",
    "a truncate whose count does not fit its length",
    "a delete of an unknown kind",
    "a binary value, though text was asked for",
    "unknown kind of column",
    "negative length",
];

/// Panics when the two differ about these bytes; says whether both read them.
fn compare(bytes: &[u8]) -> bool {
    let theirs = LogicalReplicationParser::with_protocol_version(1).parse_wal_message(bytes);
    match (decode(bytes.to_vec().into()), theirs) {
        // Origin and Type are passed over unread.
        (Ok(Message::Ignored), _) => true,
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(Some(&ours), translated(&theirs.message).as_ref(), "{bytes:02x?}");
            true
        }
        // A prefix is bytes to us: it is only compared with our own.
        (Ok(Message::Logical { prefix, .. }), Err(_)) if str::from_utf8(&prefix).is_err() => false,
        (Ok(ours), Err(theirs)) => panic!("only we read {bytes:02x?}: {ours:?}; they: {theirs}"),
        (Err(_), Err(_)) => false,
        (Err(ours), Ok(theirs)) => {
            let foreign = translated(&theirs.message).is_none(); // of a newer protocol than we speak
            assert!(foreign || STRICTER.contains(&ours.0), "only they read {bytes:02x?}: {theirs:?}; we: {ours}");
            false
        }
    }
}

/// Their reading in our words; nothing for messages that we never ask for.
fn translated(theirs: &Theirs) -> Option<Message> {
    Some(match theirs {
        Theirs::Begin { final_lsn, timestamp, xid } => {
            let committed_at = timestamp.saturating_add(EPOCH_MICROS);
            Message::Begin { commit: Lsn(*final_lsn), committed_at, xid: *xid }
        }
        Theirs::Commit { commit_lsn, end_lsn, .. } => Message::Commit { commit: Lsn(*commit_lsn), end: Lsn(*end_lsn) },
        Theirs::Relation { relation_id, namespace, relation_name, replica_identity, columns } => {
            let columns = columns.iter().map(|column| RelationColumn {
                name: column.name.to_string(),
                key: column.is_key(),
                type_oid: column.type_id,
                type_modifier: column.type_modifier,
            });
            let schema = if namespace.is_empty() { "pg_catalog" } else { namespace };
            Message::Relation(Relation {
                oid: *relation_id,
                name: TableName::new(schema, &**relation_name),
                identity: *replica_identity,
                columns: columns.collect(),
            })
        }
        Theirs::Insert { relation_id, tuple } => Message::Insert { relation: *relation_id, new: row(tuple) },
        Theirs::Update { relation_id, old_tuple, new_tuple, .. } => {
            Message::Update { relation: *relation_id, old: old_tuple.as_ref().map(row), new: row(new_tuple) }
        }
        Theirs::Delete { relation_id, old_tuple, .. } => {
            Message::Delete { relation: *relation_id, old: row(old_tuple) }
        }
        Theirs::Truncate { relation_ids, flags } => Message::Truncate {
            relations: relation_ids.clone(),
            cascade: flags & 1 != 0,
            restart_identity: flags & 2 != 0,
        },
        Theirs::Message { flags, lsn, prefix, content } => Message::Logical {
            transactional: flags & 1 != 0,
            at: Lsn(*lsn),
            prefix: prefix.clone().into(),
            content: content.clone(),
        },
        Theirs::Type { .. } | Theirs::Origin { .. } => Message::Ignored,
        _ => return None,
    })
}

fn row(theirs: &TupleData) -> Tuple {
    let mut row = TupleBuilder::new();
    for column in &theirs.columns {
        row.push(match column.data_type {
            b'n' => Cell::Null,
            b'u' => Cell::Unchanged,
            _ => Cell::Text(column.as_bytes()),
        });
    }
    row.finish()
}

fn name() -> impl Strategy<Value = String> {
    "[^\0]{0,12}"
}

fn tuple() -> impl Strategy<Value = Tuple> {
    let cell = prop_oneof![
        Just(None),
        Just(Some(None)),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|text| Some(Some(text))),
    ];
    prop::collection::vec(cell, 0..6).prop_map(|cells| {
        let mut row = TupleBuilder::new();
        for cell in &cells {
            row.push(match cell {
                None => Cell::Null,
                Some(None) => Cell::Unchanged,
                Some(Some(text)) => Cell::Text(text),
            });
        }
        row.finish()
    })
}

fn relation() -> impl Strategy<Value = Message> {
    let column = (name(), any::<bool>(), any::<u32>(), any::<i32>());
    let columns = prop::collection::vec(column, 0..5);
    (any::<u32>(), name(), name(), prop::sample::select(b"dnfi".to_vec()), columns).prop_map(
        |(oid, schema, table, identity, columns)| {
            let columns = columns.into_iter().map(|(name, key, type_oid, type_modifier)| RelationColumn {
                name,
                key,
                type_oid,
                type_modifier,
            });
            let schema = if schema.is_empty() { "pg_catalog".to_owned() } else { schema };
            Message::Relation(Relation {
                oid,
                name: TableName::new(schema, table),
                identity,
                columns: columns.collect(),
            })
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let time = -(1i64 << 60)..(1i64 << 60);
    prop_oneof![
        (any::<u64>(), time, any::<u32>()).prop_map(|(commit, committed_at, xid)| Message::Begin {
            commit: Lsn(commit),
            committed_at,
            xid
        }),
        (any::<u64>(), any::<u64>()).prop_map(|(commit, end)| Message::Commit { commit: Lsn(commit), end: Lsn(end) }),
        relation(),
        (any::<u32>(), tuple()).prop_map(|(relation, new)| Message::Insert { relation, new }),
        (any::<u32>(), prop::option::of(tuple()), tuple()).prop_map(|(relation, old, new)| Message::Update {
            relation,
            old,
            new
        }),
        (any::<u32>(), tuple()).prop_map(|(relation, old)| Message::Delete { relation, old }),
        (prop::collection::vec(any::<u32>(), 0..6), any::<bool>(), any::<bool>()).prop_map(
            |(relations, cascade, restart_identity)| Message::Truncate { relations, cascade, restart_identity }
        ),
        (any::<bool>(), any::<u64>(), name(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(
            |(transactional, at, prefix, content)| Message::Logical {
                transactional,
                at: Lsn(at),
                prefix: prefix.into(),
                content: content.into()
            }
        ),
        Just(Message::Ignored),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn whatever_a_server_may_send_both_decoders_read_alike(message in message()) {
        let bytes = encode(&message);
        prop_assert_eq!(decode(bytes.clone()), Ok(message));
        prop_assert!(compare(&bytes));
    }

    #[test]
    fn a_message_that_was_damaged_is_read_alike_by_both_or_refused(
        message in message(),
        cut: Option<prop::sample::Index>,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = encode(&message).to_vec();
        if let Some(cut) = cut {
            bytes.truncate(1 + cut.index(bytes.len()));
        }
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        compare(&bytes);
    }

    #[test]
    fn bytes_out_of_nowhere_are_read_alike_by_both_or_refused(
        kind in prop::sample::select(b"BCRIUDTMOYSEcAbPKrpx\0".to_vec()),
        rest in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\0\x01ntubNKO".to_vec())], 0..60),
    ) {
        compare(&[&[kind], &rest[..]].concat());
    }
}
