//! The streaming replication protocol, as far as logical replication needs it.
//!
//! An own module because tokio-postgres cannot replicate. It splits frames out of one large buffer: no copy and no
//! system call for a single message, so that the server's decoding stays the limit.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use postgres_protocol::message::backend::{ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::client::server_fault;
use super::login::{Refused, login};
use super::quote;
use super::url::Url;
use super::wire::Wire;
use crate::types::{Fault, Lsn};

/// Microseconds from the Unix epoch to Postgres's, the first of January 2000.
pub const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A status of 39 bytes always fits into an empty socket buffer; if it does not go, the peer has stopped reading.
const WRITE_LIMIT: Duration = Duration::from_secs(20);

/// A connection to a walsender that is not streaming yet.
pub struct Connection {
    wire: Wire,
    address: String,
}

/// `IDENTIFY_SYSTEM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// The cluster's own number: another cluster has another history.
    pub identifier: String,
    pub timeline: u32,
    /// How far its WAL is flushed.
    pub flushed: Lsn,
}

/// An error of a command: the server's own words with their SQLSTATE, or the connection's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    Refused { code: String, message: String, hint: Option<String> },
    Lost(String),
}

impl Failure {
    /// Who must act, where nobody knows better.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Refused { code, message, hint } => server_fault(code, message, hint.as_deref()),
            Self::Lost(cause) => Fault::retry(cause),
        }
    }
}

impl Connection {
    pub async fn open(url: &Url, application: &str) -> Result<Self, Fault> {
        Ok(Self { wire: login(url, application).await?, address: url.address() })
    }

    /// Whether the connection runs through TLS.
    pub fn encrypted(&self) -> bool {
        self.wire.encrypted
    }

    pub async fn identify(&mut self) -> Result<System, Failure> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        let row = rows.into_iter().next().unwrap_or_default();
        let field = |at: usize| row.get(at).cloned().flatten();
        let read = || {
            let (identifier, timeline, flushed) = (field(0)?, field(1)?.parse().ok()?, field(2)?.parse().ok()?);
            Some(System { identifier, timeline, flushed })
        };
        read().ok_or_else(|| Failure::Lost(format!("{} did not say which cluster it is", self.address)))
    }

    /// One statement or replication command; its rows as text.
    pub async fn query(&mut self, statement: &str) -> Result<Vec<Vec<Option<String>>>, Failure> {
        self.send(statement).await?;
        let (mut rows, mut refused) = (Vec::new(), None);
        loop {
            match self.wire.message().await.map_err(|e| lost(&self.address, &e))? {
                Some(Message::DataRow(row)) => {
                    let cells = row
                        .ranges()
                        .map(|range| Ok(range.map(|at| String::from_utf8_lossy(&row.buffer()[at]).into_owned())));
                    rows.push(cells.collect().map_err(|e| lost(&self.address, &e))?);
                }
                Some(Message::ErrorResponse(body)) => refused = Some(failure(&body)),
                Some(Message::ReadyForQuery(_)) => return refused.map_or(Ok(rows), Err),
                Some(_) => {}
                None => return Err(Failure::Lost(format!("{} started to copy unasked", self.address))),
            }
        }
    }

    /// Starts to stream what the slot holds, from the later of `from` and what was confirmed.
    pub async fn start(mut self, slot: &str, publication: &str, from: Lsn) -> Result<Stream, Failure> {
        // A list of identifiers inside a literal, hence both kinds of quotes.
        let publication = quote::command_literal(&quote::ident(publication));
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {from} \
             (proto_version '1', publication_names {publication}, messages 'true')",
            quote::ident(slot)
        );
        self.send(&command).await?;
        loop {
            match self.wire.message().await.map_err(|e| lost(&self.address, &e))? {
                None => return Ok(Stream { wire: self.wire, address: self.address }),
                Some(Message::ErrorResponse(body)) => return Err(failure(&body)),
                Some(_) => {}
            }
        }
    }

    /// Says goodbye: the server then logs no broken connection.
    pub async fn close(mut self) {
        frontend::terminate(&mut self.wire.output);
        let _ = self.wire.flush().await; // it is gone either way
    }

    async fn send(&mut self, statement: &str) -> Result<(), Failure> {
        frontend::query(statement, &mut self.wire.output).map_err(|e| lost(&self.address, &e))?;
        self.wire.flush().await.map_err(|e| lost(&self.address, &e))
    }
}

/// A walsender's stream.
pub struct Stream {
    wire: Wire,
    address: String,
}

/// What a walsender sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// XLogData: one message of the output plugin. `clock` is the server's, in microseconds since the Unix epoch.
    Data { start: Lsn, end: Lsn, clock: i64, data: Bytes },
    /// `end`: everything before it was sent.
    Keepalive { end: Lsn, clock: i64, reply: bool },
    /// The server ended the stream.
    Done,
}

impl Stream {
    /// The next frame that is here already; does no I/O.
    pub fn buffered(&mut self) -> Result<Option<Frame>, Failure> {
        loop {
            let Some((tag, body)) = self.wire.buffered().map_err(|e| lost(&self.address, &e))? else { return Ok(None) };
            match tag {
                b'd' => return frame(body).map(Some).map_err(|e| lost(&self.address, &e)),
                b'c' | b'C' => return Ok(Some(Frame::Done)),
                b'E' => return Err(self.refused(&body)),
                _ => {} // notices and parameters
            }
        }
    }

    /// Waits for more; cancelling it loses nothing.
    pub async fn fill(&mut self) -> Result<(), Failure> {
        self.wire.fill().await.map_err(|e| lost(&self.address, &e))
    }

    /// Standby status update: the source may forget what lies before `confirmed`. With `reply` it answers at once.
    pub async fn status(&mut self, confirmed: Lsn, reply: bool) -> Result<(), Failure> {
        let mut status = [0; 34];
        let mut to = &mut status[..];
        to.put_u8(b'r');
        // Written, flushed, applied: there is only one fact to tell.
        (0..3).for_each(|_| to.put_u64(confirmed.0));
        to.put_i64(now() - EPOCH_MICROS);
        to.put_u8(reply.into());
        let message = frontend::CopyData::new(&status[..]).map_err(|e| lost(&self.address, &e))?;
        message.write(&mut self.wire.output);
        self.flush().await
    }

    /// Ends the stream as the protocol wants it, so that the walsender leaves at once and the slot is free.
    /// What still comes is thrown away; it was not confirmed.
    pub async fn finish(mut self) -> Result<(), Failure> {
        frontend::copy_done(&mut self.wire.output);
        self.flush().await?;
        let ended = async {
            loop {
                while let Some((tag, body)) = self.wire.buffered().map_err(|e| lost(&self.address, &e))? {
                    match tag {
                        b'Z' => return Ok(()),
                        b'E' => return Err(self.refused(&body)),
                        _ => {}
                    }
                }
                self.wire.fill().await.map_err(|e| lost(&self.address, &e))?;
            }
        };
        // The walsender may be deep in a large transaction; closing the connection ends it as well.
        tokio::time::timeout(Duration::from_secs(3), ended).await.unwrap_or(Ok(()))?;
        frontend::terminate(&mut self.wire.output);
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        match tokio::time::timeout(WRITE_LIMIT, self.wire.flush()).await {
            Ok(done) => done.map_err(|e| lost(&self.address, &e)),
            Err(_) => Err(Failure::Lost(format!("{} has stopped reading", self.address))),
        }
    }

    fn refused(&self, body: &Bytes) -> Failure {
        match parse_error(body) {
            Some(body) => failure(&body),
            None => Failure::Lost(format!("{} sent an error that cannot be read", self.address)),
        }
    }
}

fn frame(mut body: Bytes) -> io::Result<Frame> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "a replication frame that ends too early");
    let word = |at: usize| body.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_be_bytes);
    let time = |at: usize| word(at).map(|micros| (micros as i64).saturating_add(EPOCH_MICROS));
    match body.first() {
        Some(b'w') => {
            let (start, end) = (Lsn(word(1).ok_or_else(short)?), Lsn(word(9).ok_or_else(short)?));
            let clock = time(17).ok_or_else(short)?;
            body.advance(25);
            Ok(Frame::Data { start, end, clock, data: body })
        }
        Some(b'k') => {
            let (end, clock) = (Lsn(word(1).ok_or_else(short)?), time(9).ok_or_else(short)?);
            let reply = *body.get(17).ok_or_else(short)? != 0;
            Ok(Frame::Keepalive { end, clock, reply })
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown replication frame")),
    }
}

/// The crate builds an error's body only from a whole message.
fn parse_error(body: &Bytes) -> Option<ErrorResponseBody> {
    let mut message = bytes::BytesMut::with_capacity(body.len() + 5);
    message.put_u8(b'E');
    message.put_u32(u32::try_from(body.len() + 4).ok()?);
    message.put_slice(body);
    match Message::parse(&mut message) {
        Ok(Some(Message::ErrorResponse(body))) => Some(body),
        _ => None,
    }
}

fn failure(body: &ErrorResponseBody) -> Failure {
    let Refused { code, message, hint } = Refused::read(body.fields());
    Failure::Refused { code, message, hint }
}

fn lost(address: &str, error: &io::Error) -> Failure {
    Failure::Lost(format!("the replication connection to {address} was lost: {error}"))
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_cut_anywhere_is_refused() {
        let whole = [&b"w"[..], &[0; 7], &[1], &[0; 7], &[2], &[0; 8], b"data"].concat();
        let read = frame(Bytes::from(whole.clone())).unwrap();
        let data = Bytes::from_static(b"data");
        assert_eq!(read, Frame::Data { start: Lsn(1), end: Lsn(2), clock: EPOCH_MICROS, data });
        assert!((0..25).all(|end| frame(Bytes::copy_from_slice(&whole[..end])).is_err()));
        let keepalive = [&b"k"[..], &[0; 7], &[9], &[0; 8], &[1]].concat();
        let read = frame(Bytes::from(keepalive.clone())).unwrap();
        assert_eq!(read, Frame::Keepalive { end: Lsn(9), clock: EPOCH_MICROS, reply: true });
        assert!((0..18).all(|end| frame(Bytes::copy_from_slice(&keepalive[..end])).is_err()));
    }
}
