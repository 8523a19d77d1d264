//! What a comparison asks of the target: `lockstep_digest` in its SQL. Nothing is answered before the target holds what
//! the source held when it was asked.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::part::{Bounds, Digest, Key};
use super::prove::Seen;
use crate::rest::{self, Body, Class, Failure};
use crate::types::{Fault, Lsn, Position, Table};

pub struct Target<'a> {
    client: &'a rest::Client,
    route: &'a str,
    table: &'a Table,
    /// Tells how far the target is, where the stream runs in this process.
    reached: Option<watch::Receiver<Position>>,
    pub sent: u64,
    pub received: u64,
    pub requests: u64,
    /// How long the last answer took.
    pub took: Duration,
}

/// Why an answer did not come.
pub enum Trouble {
    /// It took the target longer than it may: ask for less.
    TooMuch,
    Fault(Fault),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

#[derive(Debug, Deserialize)]
pub struct Look {
    pub missing: Vec<String>,
    pub key_types: Vec<String>,
    pub blocks: u64,
}

/// The target has stood still for so long that nothing can be said about it.
const STANDS_STILL: Duration = Duration::from_secs(60);
/// Between two questions whether it is there, at first and at most.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// How often a request that failed by what passes is made, some 30 s in all. Then the comparison fails, not the route.
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(250);

impl<'a> Target<'a> {
    pub fn new(
        client: &'a rest::Client,
        route: &'a str,
        table: &'a Table,
        reached: Option<watch::Receiver<Position>>,
    ) -> Self {
        Self { client, route, table, reached, sent: 0, received: 0, requests: 0, took: Duration::ZERO }
    }

    pub async fn look(&mut self) -> Result<Look, Trouble> {
        self.ask(None, json!({"look": true})).await
    }

    /// The digests of some ranges, in their order.
    pub async fn ranges(&mut self, at: Lsn, ranges: &[Bounds]) -> Result<Vec<Digest>, Trouble> {
        let answer: Found<(u64, String, String)> = self.ask(Some(at), json!({"ranges": ranges})).await?;
        Ok(answer.found.into_iter().map(|(rows, a, b)| Digest::new(rows, a, b)).collect())
    }

    /// The first rows of some ranges, at most `most` of each, in the key's order.
    pub async fn rows(&mut self, at: Lsn, ranges: &[Bounds], most: u64) -> Result<Vec<Vec<(Key, String)>>, Trouble> {
        let answer: Found<Vec<(Key, String)>> = self.ask(Some(at), json!({"ranges": ranges, "rows": most})).await?;
        Ok(answer.found)
    }

    /// The digests of the buckets that hold anything, of some blocks.
    pub async fn buckets(
        &mut self,
        at: Lsn,
        modulus: u32,
        of: Option<&[u32]>,
        blocks: (u64, Option<u64>),
    ) -> Result<HashMap<u32, Digest>, Trouble> {
        let request = json!({"buckets": {"modulus": modulus, "of": of}, "blocks": blocks});
        let answer: Found<(u32, u64, String, String)> = self.ask(Some(at), request).await?;
        Ok(answer.found.into_iter().map(|(of, rows, a, b)| (of, Digest::new(rows, a, b))).collect())
    }

    pub async fn rows_of_buckets(
        &mut self,
        at: Lsn,
        modulus: u32,
        of: &[u32],
        blocks: (u64, Option<u64>),
    ) -> Result<Vec<(Key, String)>, Trouble> {
        let request = json!({"buckets": {"modulus": modulus, "of": of}, "blocks": blocks, "rows": true});
        let answer: Found<(Key, String)> = self.ask(Some(at), request).await?;
        Ok(answer.found)
    }

    /// Single rows, each in the place of its key.
    pub async fn observe(&mut self, at: Lsn, keys: &[Key]) -> Result<Vec<Option<Seen>>, Trouble> {
        let answer: Found<(usize, String, String)> = self.ask(Some(at), json!({"keys": keys})).await?;
        let mut seen = vec![None; keys.len()];
        for (n, hash, version) in answer.found {
            if let Some(place) = n.checked_sub(1).and_then(|place| seen.get_mut(place)) {
                *place = Some(Seen { hash, version });
            }
        }
        Ok(seen)
    }

    /// Returns once the target holds all that was committed before this point.
    pub async fn reach(&mut self, at: Lsn) -> Result<(), Trouble> {
        let _: Value = self.ask(Some(at), json!({"nothing": true})).await?;
        Ok(())
    }

    /// Asks, once the target has passed a point. That is also how a comparison yields: as long as the stream is behind,
    /// it waits.
    async fn ask<T: for<'de> Deserialize<'de>>(&mut self, at: Option<Lsn>, mut request: Value) -> Result<T, Trouble> {
        if let Some(at) = at {
            self.wait(Position::at(at)).await?;
            request["at"] = json!([at.0, 0]);
        }
        let table = self.table;
        request["route"] = json!(self.route);
        if request.get("nothing").is_none() {
            request["schema"] = json!(table.name.schema);
            request["table"] = json!(table.name.name);
            request["columns"] = table.columns.iter().map(|column| column.name.as_str()).collect();
            request["key"] = json!(table.key);
        }
        let request = json!({"request": request});
        let (mut pause, mut before, mut moved) = (ASK_AGAIN.0, Position::default(), Instant::now());
        loop {
            let answer = self.send(&request).await?;
            if answer["behind"].as_bool() != Some(true) {
                return serde_json::from_value(answer).map_err(|error| {
                    Fault::retry(format!("lockstep_digest answers what is not ours: {error}")).into()
                });
            }
            let (major, minor) = serde_json::from_value(answer["at"].clone()).unwrap_or_default();
            let now = Position { major, minor };
            if now != before {
                (before, moved) = (now, Instant::now());
            }
            if moved.elapsed() > STANDS_STILL {
                return Err(stands_still(now).into());
            }
            sleep(pause).await;
            pause = (pause * 2).min(ASK_AGAIN.1);
        }
    }

    /// Waits for the checkpoint where it is told in this process, without asking the target.
    async fn wait(&mut self, at: Position) -> Result<(), Fault> {
        let Some(reached) = &mut self.reached else { return Ok(()) };
        loop {
            let now = *reached.borrow_and_update();
            if now >= at {
                return Ok(());
            }
            match timeout(STANDS_STILL, reached.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Fault::retry("the route ended")),
                Err(_) => return Err(stands_still(now)),
            }
        }
    }

    /// One request, again while what went wrong passes by itself.
    async fn send(&mut self, request: &Value) -> Result<Value, Trouble> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            self.requests += 1;
            let begun = Instant::now();
            match self.client.rpc_counted("lockstep_digest", Body::Json(request.clone())).await {
                Ok((answer, sizes)) => {
                    self.took = begun.elapsed();
                    self.sent += sizes.sent;
                    self.received += sizes.received;
                    return Ok(answer);
                }
                Err(failure) if takes_too_long(&failure) => return Err(Trouble::TooMuch),
                Err(failure) if failure.class == Class::Transient && attempt < ATTEMPTS => {
                    let wait = pause.max(failure.retry_after.unwrap_or_default().min(Duration::from_secs(30)));
                    warn!(cause = %failure, retry_in = ?wait, "Supabase did not answer the comparison; asking again");
                    sleep(wait).await;
                    pause *= 2;
                }
                Err(failure) => return Err(crate::apply::request_fault(&failure, 0).into()),
            }
        }
        unreachable!("the loop ends by its last attempt")
    }
}

#[derive(Deserialize)]
struct Found<T> {
    found: Vec<T>,
}

fn takes_too_long(failure: &Failure) -> bool {
    failure.class == Class::TooLarge || failure.code.as_deref() == Some("57014")
}

fn stands_still(at: Position) -> Fault {
    let seconds = STANDS_STILL.as_secs();
    Fault::retry(format!("the target's checkpoint has stood at {at} for {seconds} s, so it cannot be compared"))
}
