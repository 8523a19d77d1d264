//! One row as it travels: the bytes of pgoutput's `TupleData`, checked once, never copied, read in place.
//!
//! Rows of a first copy are built in the same form, so that everything behind capture knows one kind of row.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// One column's value. Text is what Postgres wrote, and is handed on untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cell<'a> {
    Null,
    /// A TOASTed value that the update left alone; the WAL does not hold it.
    Unchanged,
    Text(&'a [u8]),
}

/// The bytes are not a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed row: {0}")]
pub struct Malformed(pub &'static str);

/// A checked row: a count of columns, then for each its kind and, for text, length and bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple(Bytes);

impl Tuple {
    /// Takes one row off the front of `buf`. Every length is checked here, so that reading it later cannot fail.
    pub fn take(buf: &mut Bytes) -> Result<Self, Malformed> {
        let columns = buf.get(..2).ok_or(Malformed("no column count"))?;
        let columns = u16::from_be_bytes([columns[0], columns[1]]);
        let mut at = 2;
        for _ in 0..columns {
            let kind = *buf.get(at).ok_or(Malformed("ends before its last column"))?;
            at += 1;
            match kind {
                b'n' | b'u' => {}
                b't' => {
                    let len = buf.get(at..at + 4).ok_or(Malformed("ends within a length"))?;
                    let len = i32::from_be_bytes([len[0], len[1], len[2], len[3]]);
                    let len = usize::try_from(len).map_err(|_| Malformed("negative length"))?;
                    at = at
                        .checked_add(4 + len)
                        .filter(|&end| end <= buf.len())
                        .ok_or(Malformed("ends within a value"))?;
                }
                b'b' => return Err(Malformed("a binary value, though text was asked for")),
                _ => return Err(Malformed("unknown kind of column")),
            }
        }
        Ok(Self(buf.split_to(at)))
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        usize::from(u16::from_be_bytes([self.0[0], self.0[1]]))
    }

    /// Size in bytes as it travels.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    pub fn cells(&self) -> Cells<'_> {
        Cells { rest: &self.0[2..] }
    }

    /// Appends the values of some columns, in the given order, in a form in which two keys are equal only if their
    /// texts are. Columns that are not there count as NULL.
    pub fn key(&self, columns: &[usize], out: &mut Vec<u8>) {
        for &column in columns {
            match self.cells().nth(column) {
                Some(Cell::Text(text)) => {
                    out.push(b't');
                    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
                    out.extend_from_slice(text);
                }
                Some(Cell::Unchanged) => out.push(b'u'),
                Some(Cell::Null) | None => out.push(b'n'),
            }
        }
    }

    /// This row with the columns that a patch of the same form brings.
    pub fn overlaid(&self, patch: &Self) -> Self {
        let mut merged = TupleBuilder::new();
        for (old, new) in self.cells().zip(patch.cells()) {
            merged.push(if new == Cell::Unchanged { old } else { new });
        }
        merged.finish()
    }

    /// Whether an unchanged TOASTed value is missing from it.
    pub fn is_partial(&self) -> bool {
        self.cells().any(|cell| cell == Cell::Unchanged)
    }
}

/// The columns of a row, in order.
#[derive(Clone)]
pub struct Cells<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Cells<'a> {
    type Item = Cell<'a>;

    fn next(&mut self) -> Option<Cell<'a>> {
        let (&kind, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(match kind {
            b'n' => Cell::Null,
            b'u' => Cell::Unchanged,
            _ => {
                let len = self.rest.get_u32() as usize;
                let (text, rest) = self.rest.split_at(len);
                self.rest = rest;
                Cell::Text(text)
            }
        })
    }
}

/// Builds rows in the form in which they travel.
#[derive(Default)]
pub struct TupleBuilder {
    columns: u16,
    bytes: BytesMut,
}

impl TupleBuilder {
    pub fn new() -> Self {
        let mut bytes = BytesMut::new();
        bytes.put_u16(0);
        Self { columns: 0, bytes }
    }

    /// A row of one value.
    pub fn of(cell: Cell<'_>) -> Tuple {
        let mut row = Self::new();
        row.push(cell);
        row.finish()
    }

    pub fn push(&mut self, cell: Cell<'_>) {
        self.columns += 1;
        match cell {
            Cell::Null => self.bytes.put_u8(b'n'),
            Cell::Unchanged => self.bytes.put_u8(b'u'),
            Cell::Text(text) => {
                self.bytes.put_u8(b't');
                // Postgres bounds a value to 1 GB, so its length fits.
                self.bytes.put_u32(text.len() as u32);
                self.bytes.put_slice(text);
            }
        }
    }

    pub fn finish(mut self) -> Tuple {
        self.bytes[..2].copy_from_slice(&self.columns.to_be_bytes());
        Tuple(self.bytes.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_back_as_it_was_built() {
        let cells = [Cell::Text(b"a"), Cell::Null, Cell::Unchanged, Cell::Text(b"")];
        let mut row = TupleBuilder::new();
        cells.into_iter().for_each(|cell| row.push(cell));
        let Tuple(bytes) = row.finish();
        let mut buf = Bytes::from([&bytes[..], b"rest"].concat());
        let read = Tuple::take(&mut buf).unwrap();
        assert_eq!((read.columns(), read.cells().collect::<Vec<_>>(), &buf[..]), (4, cells.to_vec(), &b"rest"[..]));
        assert!(read.is_partial());
    }

    #[test]
    fn a_row_cut_anywhere_is_refused() {
        let mut row = TupleBuilder::new();
        row.push(Cell::Text(b"hello"));
        row.push(Cell::Null);
        let Tuple(bytes) = row.finish();
        for end in 0..bytes.len() {
            assert!(Tuple::take(&mut bytes.slice(..end)).is_err(), "cut at {end}");
        }
        assert!(Tuple::take(&mut Bytes::from_static(b"\0\x01t\xff\xff\xff\xff")).is_err());
    }
}
