//! Writes pgoutput messages, as a server would: for tests of what reads them.

use bytes::{BufMut, Bytes, BytesMut};

use super::pgoutput::Message;
use crate::pg::replication::EPOCH_MICROS;
use crate::types::{Cell, Tuple, TupleBuilder};

pub(super) fn row(cells: &[Option<&str>]) -> Tuple {
    let mut row = TupleBuilder::new();
    cells.iter().for_each(|cell| row.push(cell.map_or(Cell::Null, |text| Cell::Text(text.as_bytes()))));
    row.finish()
}

pub(super) fn encode(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    match message {
        Message::Begin { commit, committed_at, xid } => {
            out.put_u8(b'B');
            out.put_u64(commit.0);
            out.put_i64(committed_at - EPOCH_MICROS);
            out.put_u32(*xid);
        }
        Message::Commit { commit, end } => {
            out.put_slice(b"C\0");
            out.put_u64(commit.0);
            out.put_u64(end.0);
            out.put_i64(0);
        }
        Message::Relation(relation) => {
            out.put_u8(b'R');
            out.put_u32(relation.oid);
            text(&mut out, &relation.name.schema);
            text(&mut out, &relation.name.name);
            out.put_u8(relation.identity);
            out.put_u16(relation.columns.len() as u16);
            for column in &relation.columns {
                out.put_u8(column.key.into());
                text(&mut out, &column.name);
                out.put_u32(column.type_oid);
                out.put_i32(column.type_modifier);
            }
        }
        Message::Insert { relation, new } => {
            out.put_u8(b'I');
            out.put_u32(*relation);
            tuple(&mut out, b'N', new);
        }
        Message::Update { relation, old, new } => {
            out.put_u8(b'U');
            out.put_u32(*relation);
            if let Some(old) = old {
                tuple(&mut out, b'K', old);
            }
            tuple(&mut out, b'N', new);
        }
        Message::Delete { relation, old } => {
            out.put_u8(b'D');
            out.put_u32(*relation);
            tuple(&mut out, b'O', old);
        }
        Message::Truncate { relations, cascade, restart_identity } => {
            out.put_u8(b'T');
            out.put_u32(relations.len() as u32);
            out.put_u8(u8::from(*cascade) | u8::from(*restart_identity) << 1);
            relations.iter().for_each(|&oid| out.put_u32(oid));
        }
        Message::Logical { transactional, at, prefix, content } => {
            out.put_u8(b'M');
            out.put_u8((*transactional).into());
            out.put_u64(at.0);
            out.put_slice(prefix);
            out.put_u8(0);
            out.put_u32(content.len() as u32);
            out.put_slice(content);
        }
        Message::Ignored => out.put_slice(b"Y\0\0\0\x01public\0mood\0"),
    }
    out.freeze()
}

fn text(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn tuple(out: &mut BytesMut, kind: u8, tuple: &Tuple) {
    out.put_u8(kind);
    out.put_u16(tuple.columns() as u16);
    for cell in tuple.cells() {
        match cell {
            Cell::Null => out.put_u8(b'n'),
            Cell::Unchanged => out.put_u8(b'u'),
            Cell::Text(text) => {
                out.put_u8(b't');
                out.put_u32(text.len() as u32);
                out.put_slice(text);
            }
        }
    }
}
