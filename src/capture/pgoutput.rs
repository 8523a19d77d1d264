//! Decodes the messages of the output plugin pgoutput, protocol version 1, text values.
//!
//! Every length is checked; no bytes make it panic.

use bytes::{Buf, Bytes};

use crate::pg::replication::EPOCH_MICROS;
use crate::types::{Lsn, Malformed, Relation, RelationColumn, TableName, Tuple};

/// One message. Row messages name their relation by the oid of an earlier `Relation`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// `commit` is where the commit record starts; time in microseconds since the Unix epoch.
    Begin {
        commit: Lsn,
        committed_at: i64,
        xid: u32,
    },
    Commit {
        commit: Lsn,
        end: Lsn,
    },
    Relation(Relation),
    Insert {
        relation: u32,
        new: Tuple,
    },
    Update {
        relation: u32,
        old: Option<Tuple>,
        new: Tuple,
    },
    Delete {
        relation: u32,
        old: Tuple,
    },
    Truncate {
        relations: Vec<u32>,
        cascade: bool,
        restart_identity: bool,
    },
    /// Written by `pg_logical_emit_message`.
    Logical {
        transactional: bool,
        at: Lsn,
        prefix: Bytes,
        content: Bytes,
    },
    /// Origin and Type: nothing we need.
    Ignored,
}

pub fn decode(data: Bytes) -> Result<Message, Malformed> {
    let mut r = Reader(data);
    let message = match r.u8()? {
        b'B' => Message::Begin { commit: r.lsn()?, committed_at: r.time()?, xid: r.u32()? },
        b'C' => {
            r.u8()?; // flags, none in use
            let message = Message::Commit { commit: r.lsn()?, end: r.lsn()? };
            r.time()?;
            message
        }
        b'R' => Message::Relation(relation(&mut r)?),
        b'I' => {
            let relation = r.u32()?;
            r.expect(b'N')?;
            Message::Insert { relation, new: Tuple::take(&mut r.0)? }
        }
        b'U' => {
            let relation = r.u32()?;
            let old = match r.u8()? {
                b'K' | b'O' => {
                    let old = Tuple::take(&mut r.0)?;
                    r.expect(b'N')?;
                    Some(old)
                }
                b'N' => None,
                _ => return Err(Malformed("an update of an unknown kind")),
            };
            Message::Update { relation, old, new: Tuple::take(&mut r.0)? }
        }
        b'D' => {
            let relation = r.u32()?;
            match r.u8()? {
                b'K' | b'O' => Message::Delete { relation, old: Tuple::take(&mut r.0)? },
                _ => return Err(Malformed("a delete of an unknown kind")),
            }
        }
        b'T' => truncate(&mut r)?,
        b'M' => logical(&mut r)?,
        b'O' | b'Y' => return Ok(Message::Ignored),
        _ => return Err(Malformed("a message of an unknown kind")),
    };
    if r.0.has_remaining() { Err(Malformed("bytes after the end of a message")) } else { Ok(message) }
}

fn relation(r: &mut Reader) -> Result<Relation, Malformed> {
    let oid = r.u32()?;
    let schema = match r.text()? {
        schema if schema.is_empty() => "pg_catalog".to_owned(), // the protocol's short form of it
        schema => schema,
    };
    let name = TableName::new(schema, r.text()?);
    let identity = r.u8()?;
    let count = r.u16()?;
    let columns = (0..count).map(|_| {
        let key = r.u8()? & 1 == 1;
        Ok(RelationColumn { name: r.text()?, key, type_oid: r.u32()?, type_modifier: r.u32()? as i32 })
    });
    Ok(Relation { oid, name, identity, columns: columns.collect::<Result<_, _>>()? })
}

fn truncate(r: &mut Reader) -> Result<Message, Malformed> {
    let count = r.u32()? as usize;
    let flags = r.u8()?;
    let relations = (0..count).map(|_| r.u32()).collect::<Result<_, _>>()?;
    Ok(Message::Truncate { relations, cascade: flags & 1 != 0, restart_identity: flags & 2 != 0 })
}

fn logical(r: &mut Reader) -> Result<Message, Malformed> {
    let transactional = r.u8()? & 1 == 1;
    let at = r.lsn()?;
    let prefix = r.until_nul()?;
    let len = r.u32()? as usize;
    let content = r.bytes(len)?;
    Ok(Message::Logical { transactional, at, prefix, content })
}

struct Reader(Bytes);

impl Reader {
    fn bytes(&mut self, len: usize) -> Result<Bytes, Malformed> {
        if self.0.remaining() < len { Err(Malformed("ends too early")) } else { Ok(self.0.split_to(len)) }
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.0.try_get_u8().map_err(|_| Malformed("ends too early"))
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.0.try_get_u16().map_err(|_| Malformed("ends too early"))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.0.try_get_u32().map_err(|_| Malformed("ends too early"))
    }

    fn lsn(&mut self) -> Result<Lsn, Malformed> {
        self.0.try_get_u64().map(Lsn).map_err(|_| Malformed("ends too early"))
    }

    fn time(&mut self) -> Result<i64, Malformed> {
        let micros = self.0.try_get_i64().map_err(|_| Malformed("ends too early"))?;
        Ok(micros.saturating_add(EPOCH_MICROS))
    }

    fn expect(&mut self, kind: u8) -> Result<(), Malformed> {
        if self.u8()? == kind { Ok(()) } else { Err(Malformed("lacks its new row")) }
    }

    fn until_nul(&mut self) -> Result<Bytes, Malformed> {
        let len = memchr::memchr(0, &self.0).ok_or(Malformed("a text without its end"))?;
        let text = self.0.split_to(len);
        self.0.advance(1);
        Ok(text)
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let text = self.until_nul()?;
        String::from_utf8(text.into()).map_err(|_| Malformed("a name that is not UTF-8"))
    }
}

#[cfg(test)]
#[path = "pgoutput_tests.rs"]
mod tests;
