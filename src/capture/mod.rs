//! Reads committed changes from a logical replication slot and tells the source what it may forget.
//!
//! One task owns the connection: it reads, hands transactions on, and sends status, so that status goes out on time
//! even while the queue behind it is full.

pub mod assemble;
#[cfg(test)]
mod differential_tests;
#[cfg(test)]
mod encode;
pub mod feedback;
pub mod journal;
pub mod pgoutput;
mod read;
pub mod slot;

use std::time::Duration;

use tokio::sync::watch;

use crate::pg;
use crate::pg::replication::Connection;
use crate::types::{Fault, Lsn, Position, Sender, Transaction};

/// How to read.
#[derive(Clone, Debug)]
pub struct Settings {
    pub url: pg::Url,
    pub slot: String,
    pub publication: String,
    /// Longest time between two status messages; never more than a third of the server's `wal_sender_timeout`.
    pub status_interval: Duration,
    /// WAL without anything for us moves the checkpoint this often: it costs a small request, and the source keeps no
    /// more WAL for it than is written in this time.
    pub mark_interval: Duration,
    /// A transaction larger than this travels in parts, and is no longer applied atomically.
    pub part_bytes: usize,
}

impl Settings {
    pub fn new(url: pg::Url) -> Self {
        Self {
            url,
            slot: "lockstep".into(),
            publication: "lockstep".into(),
            status_interval: Duration::from_secs(10),
            mark_interval: Duration::from_secs(10),
            part_bytes: 4 << 20, // several requests' worth: large transactions stay rare, memory stays small
        }
    }
}

/// How far reading has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The server's WAL up to here was read.
    pub received: Lsn,
    /// What was handed on last, when nothing lies half read behind it: a target that holds it lacks nothing.
    pub handed: Option<Position>,
    /// The source may forget what lies before.
    pub confirmed: Lsn,
    /// When the server sent what was read last, by its clock, in microseconds since the Unix epoch.
    pub sent_at: i64,
}

/// Streams from `resume` into `out` until `stop` turns true; then drops `out`, goes on confirming until the sender of
/// `checkpoint` is gone, and ends the stream properly. An error ends it at once; what was confirmed stays true.
pub async fn run(
    settings: &Settings,
    resume: Position,
    out: Sender<Transaction>,
    checkpoint: watch::Receiver<Position>,
    stop: watch::Receiver<bool>,
    progress: watch::Sender<Progress>,
) -> Result<(), Fault> {
    let mut connection = Connection::open(&settings.url, "lockstep").await?;
    let start = slot::look(&mut connection, settings, resume).await?;
    let stream = connection
        .start(&settings.slot, &settings.publication, resume.lsn())
        .await
        .map_err(|failure| slot::start_fault(settings, &failure))?;
    let interval = start.sender_timeout.map_or(settings.status_interval, |t| settings.status_interval.min(t / 3));
    tracing::info!(slot = %settings.slot, from = %resume, confirmed = %start.confirmed, "capture streams");
    let watches = read::Watches { checkpoint, stop, progress };
    read::Reader::new(settings, stream, resume, start.confirmed, interval, watches).run(out).await
}
