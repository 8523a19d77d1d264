//! The target answers by `lockstep_digest` in its SQL: digests, and keys and hashes where those differ.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Attempts, Cost, Look, Patience, STANDS_STILL, Trouble, told};
use crate::reconcile::part::{Bounds, Digest, Key};
use crate::reconcile::prove::Seen;
use crate::rest::{self, Body};
use crate::types::{Fault, Lsn, Position, Table};

pub struct Functions<'a> {
    client: &'a rest::Client,
    route: &'a str,
    table: &'a Table,
    reached: Option<watch::Receiver<Position>>,
    pub cost: Cost,
}

impl<'a> Functions<'a> {
    pub fn new(
        client: &'a rest::Client,
        route: &'a str,
        table: &'a Table,
        reached: Option<watch::Receiver<Position>>,
    ) -> Self {
        Self { client, route, table, reached, cost: Cost::default() }
    }

    pub async fn look(&mut self) -> Result<Look, Trouble> {
        self.ask(None, json!({"look": true})).await
    }

    pub async fn whole(&mut self) -> Result<Digest, Trouble> {
        let answer: Found<(u64, String, String)> = self.ask(None, json!({"ranges": [[null, null]]})).await?;
        let all = answer.found.into_iter().next().unwrap_or_default();
        Ok(Digest::new(all.0, all.1, all.2))
    }

    pub async fn ranges(&mut self, at: Lsn, ranges: &[Bounds]) -> Result<Vec<Digest>, Trouble> {
        let answer: Found<(u64, String, String)> = self.ask(Some(at), json!({"ranges": ranges})).await?;
        Ok(answer.found.into_iter().map(|(rows, a, b)| Digest::new(rows, a, b)).collect())
    }

    pub async fn rows(&mut self, at: Lsn, ranges: &[Bounds], most: u64) -> Result<Vec<Vec<(Key, String)>>, Trouble> {
        let answer: Found<Vec<(Key, String)>> = self.ask(Some(at), json!({"ranges": ranges, "rows": most})).await?;
        Ok(answer.found)
    }

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

    pub async fn reach(&mut self, at: Lsn) -> Result<(), Trouble> {
        let _: Value = self.ask(Some(at), json!({"nothing": true})).await?;
        Ok(())
    }

    /// Asks, once the target has passed a point. That is also how a comparison yields: as long as the stream is behind,
    /// it waits.
    async fn ask<T: for<'de> Deserialize<'de>>(&mut self, at: Option<Lsn>, mut request: Value) -> Result<T, Trouble> {
        if let Some(at) = at {
            if let Some(reached) = &mut self.reached {
                told(reached, Position::at(at), STANDS_STILL).await?;
            }
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
        let mut patience = Patience::new();
        loop {
            let answer = self.send(&request).await?;
            if answer["behind"].as_bool() != Some(true) {
                return serde_json::from_value(answer).map_err(|error| {
                    Fault::retry(format!("lockstep_digest answers what is not ours: {error}")).into()
                });
            }
            let (major, minor) = serde_json::from_value(answer["at"].clone()).unwrap_or_default();
            patience.behind(Position { major, minor }).await?;
        }
    }

    async fn send(&mut self, request: &Value) -> Result<Value, Trouble> {
        let mut attempts = Attempts::new();
        loop {
            self.cost.requests += 1;
            let begun = Instant::now();
            match self.client.rpc_counted("lockstep_digest", Body::Json(request.clone())).await {
                Ok((answer, sizes)) => {
                    self.cost.add(sizes, begun);
                    return Ok(answer);
                }
                Err(failure) => attempts.failed(&failure, |failure| crate::apply::request_fault(failure, 0)).await?,
            }
        }
    }
}

#[derive(Deserialize)]
struct Found<T> {
    found: Vec<T>,
}
