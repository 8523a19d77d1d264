use proptest::prelude::*;

use super::super::encode::{encode, row};
use super::*;

fn samples() -> Vec<Message> {
    let columns = vec![
        RelationColumn { name: "id".into(), key: true, type_oid: 23, type_modifier: -1 },
        RelationColumn { name: "na me".into(), key: false, type_oid: 1043, type_modifier: 14 },
    ];
    let relation = Relation { oid: 7, name: TableName::new("public", "t"), identity: b'd', columns };
    let (old, new) = (row(&[Some("1"), None]), row(&[Some("2"), Some("väl'ue")]));
    vec![
        Message::Begin { commit: Lsn(0x1_0000_0001), committed_at: EPOCH_MICROS + 5, xid: 9 },
        Message::Relation(relation),
        Message::Insert { relation: 7, new: new.clone() },
        Message::Update { relation: 7, old: None, new: new.clone() },
        Message::Update { relation: 7, old: Some(old.clone()), new },
        Message::Delete { relation: 7, old },
        Message::Truncate { relations: vec![7, 8], cascade: true, restart_identity: false },
        Message::Logical { transactional: true, at: Lsn(3), prefix: "lockstep".into(), content: "x\0y".into() },
        Message::Ignored,
        Message::Commit { commit: Lsn(0x1_0000_0001), end: Lsn(0x1_0000_0031) },
    ]
}

#[test]
fn every_message_reads_back_as_it_was_written() {
    for message in samples() {
        assert_eq!(decode(encode(&message)), Ok(message));
    }
}

#[test]
fn a_message_cut_anywhere_or_followed_by_anything_is_refused() {
    for message in samples().iter().filter(|&message| *message != Message::Ignored) {
        let bytes = encode(message);
        for end in 0..bytes.len() {
            assert!(decode(bytes.slice(..end)).is_err(), "{message:?} cut at {end}");
        }
        assert!(decode(Bytes::from([&bytes[..], b"x"].concat())).is_err(), "{message:?} and more");
    }
}

/// The protocol writes an empty text for it.
#[test]
fn a_table_without_a_schema_is_one_of_pg_catalog() {
    let columns = Vec::new();
    let unnamed = Relation { oid: 7, name: TableName::new("", "pg_class"), identity: b'd', columns };
    let named = Relation { name: TableName::new("pg_catalog", "pg_class"), ..unnamed.clone() };
    assert_eq!(decode(encode(&Message::Relation(unnamed))), Ok(Message::Relation(named)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_bytes_make_it_panic(kind in prop::sample::select(b"BCRIUDTMOYSx".to_vec()), rest: Vec<u8>) {
        let _ = decode([&[kind], &rest[..]].concat().into());
    }

    #[test]
    fn no_damage_to_a_message_makes_it_panic(which in 0..10_usize, damage: Vec<(prop::sample::Index, u8)>) {
        let mut bytes = encode(&samples()[which]).to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(Message::Insert { new, .. }) = decode(bytes.into()) {
            let _ = new.cells().count();
        }
    }
}
