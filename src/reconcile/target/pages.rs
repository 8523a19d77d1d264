//! The target answers by plain PostgREST, where nothing of ours is installed: its rows are read page by page, in the
//! order of their keys, and hashed here. That costs the table's size over the wire, whatever the question.
//!
//! Pages are requests of their own, so what they show is no one moment's. It need not be: what is equal to a moment of
//! the source has been so, and what is not is only suspected, and proved row by row.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::plain::{Row, Sums, bucket, hash, is, select, within};
use super::{Attempts, Cost, Look, Patience, Trouble, told};
use crate::apply::tables::{FILTER_BYTES, quoted, setup};
use crate::pg::{self, Client};
use crate::reconcile::part::{Bounds, Digest, Key};
use crate::reconcile::prove::Seen;
use crate::reconcile::{Settings, inlet};
use crate::rest::{self, Sizes, TableRequest, Verb, encoded};
use crate::types::{Fault, Lsn, Position, Table};

pub struct Pages<'a> {
    client: &'a rest::Client,
    source: &'a Client,
    /// Its confirmed position is the checkpoint.
    slot: &'a str,
    table: &'a Table,
    reached: Option<watch::Receiver<Position>>,
    /// How long the checkpoint may stand still.
    patience: Duration,
    /// What is asked of each row: without its version, and with it.
    select: (String, String),
    order: String,
    /// Where the key's columns stand in a row.
    key: Vec<usize>,
    /// Rows of the next page.
    limit: u64,
    /// Most rows that ever came in one answer: PostgREST may be set to cut answers (`max_rows`, 1000 in Supabase).
    most: u64,
    settings: &'a Settings,
    pub cost: Cost,
}

/// Rows of the first page, before their size is known: at 1 MB each they fit into an answer.
const FIRST_ROWS: u64 = 25;
/// Most rows of a page, however small they are.
const MOST_ROWS: u64 = 10_000;
/// How large a page is meant to be: far below the largest answer that is read, and worth its trip.
const PAGE_BYTES: u64 = 2 << 20;
/// Longest list of columns in an address; with a filter behind it, it stays within what stands before PostgREST allows.
const SELECT_BYTES: usize = 5_000;
/// The rest of an address, for a filter.
const REST_BYTES: usize = FILTER_BYTES;

/// Types whose cast to text writes them in another way than their output function does: `true`, `10.0.0.1/32`, and no
/// blanks behind a `char(n)`.
const AS_IS: &str = "with recursive base (type) as (
  select unnest(array['bool', 'bpchar', 'inet']::regtype[])::oid
  union select t.oid from pg_type t join base b on t.typtype = 'd' and t.typbasetype = b.type)
select a.attname::text from pg_attribute a join base b on b.type = a.atttypid where a.attrelid = $1 and a.attnum > 0";

const CONFIRMED: &str = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1";

impl<'a> Pages<'a> {
    pub fn new(
        settings: &'a Settings,
        source: &'a Client,
        slot: &'a str,
        table: &'a Table,
        reached: Option<watch::Receiver<Position>>,
        patience: Duration,
    ) -> Self {
        let place = |name: &String| table.columns.iter().position(|column| &column.name == name);
        let names: Vec<String> = table.key.iter().map(|name| quoted(name)).collect();
        Self {
            client: &settings.target,
            source,
            slot,
            table,
            reached,
            patience,
            select: Default::default(),
            order: encoded(&names.join(",")),
            key: table.key.iter().filter_map(place).collect(),
            limit: FIRST_ROWS,
            most: 0,
            settings,
            cost: Cost::default(),
        }
    }

    pub async fn look(&mut self) -> Result<Look, Trouble> {
        let rows = self.source.query(AS_IS, &[&self.table.oid]).await.map_err(|error| pg::client::fault(&error))?;
        let as_is: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let columns: Vec<(&str, bool)> =
            self.table.columns.iter().map(|column| (column.name.as_str(), as_is.contains(&column.name))).collect();
        self.select = (select(&columns, false), select(&columns, true));
        let length = self.select.1.len();
        if length > SELECT_BYTES {
            let cause = format!("the names of its columns take {length} bytes of an address, and {SELECT_BYTES} fit");
            return Err(Fault::stop(cause, "install our SQL in Supabase: lockstep setup supabase").into());
        }
        self.get(&format!("select={}&limit=1", self.select.1)).await?;
        // In parts by the source's types: were the target's to sort in another way, its rows would only be suspected.
        let type_of = |name: &String| self.table.columns.iter().find(|column| &column.name == name);
        let key_types = self.table.key.iter().filter_map(type_of).map(|column| column.type_name.clone()).collect();
        Ok(Look { missing: Vec::new(), key_types, blocks: 1 })
    }

    pub async fn ranges(&mut self, at: Lsn, ranges: &[Bounds]) -> Result<Vec<Digest>, Trouble> {
        let mut digests = Vec::with_capacity(ranges.len());
        for range in ranges {
            let mut sums = Sums::default();
            self.wait(at).await?;
            self.walk(range, u64::MAX, |_, hash| sums.add(&hash)).await?;
            digests.push(sums.digest());
        }
        Ok(digests)
    }

    pub async fn rows(&mut self, at: Lsn, ranges: &[Bounds], most: u64) -> Result<Vec<Vec<(Key, String)>>, Trouble> {
        let mut all = Vec::with_capacity(ranges.len());
        self.wait(at).await?;
        for range in ranges {
            let mut rows = Vec::new();
            self.walk(range, most, |key, hash| rows.push((key, hash))).await?;
            all.push(rows);
        }
        Ok(all)
    }

    pub async fn buckets(&mut self, at: Lsn, modulus: u32) -> Result<HashMap<u32, Digest>, Trouble> {
        let mut sums = HashMap::<u32, Sums>::new();
        self.wait(at).await?;
        let add = |key: Key, hash: String| sums.entry(bucket(&key, modulus)).or_default().add(&hash);
        self.walk(&(None, None), u64::MAX, add).await?;
        Ok(sums.into_iter().map(|(of, sums)| (of, sums.digest())).collect())
    }

    pub async fn rows_of_buckets(&mut self, at: Lsn, modulus: u32, of: &[u32]) -> Result<Vec<(Key, String)>, Trouble> {
        let of: std::collections::HashSet<u32> = of.iter().copied().collect();
        let mut rows = Vec::new();
        self.wait(at).await?;
        let add = |key: Key, hash: String| {
            if of.contains(&bucket(&key, modulus)) {
                rows.push((key, hash));
            }
        };
        self.walk(&(None, None), u64::MAX, add).await?;
        Ok(rows)
    }

    pub async fn observe(&mut self, at: Lsn, keys: &[Key]) -> Result<Vec<Option<Seen>>, Trouble> {
        self.wait(at).await?;
        let places: HashMap<&Key, usize> = keys.iter().enumerate().map(|(place, key)| (key, place)).collect();
        let mut seen = vec![None; keys.len()];
        let room = REST_BYTES.saturating_sub(self.select.1.len()).max(REST_BYTES / 4);
        for filters in chunks(keys.iter().map(|key| is(&self.table.key, key)), room)? {
            let query = format!("select={}&or=({})", self.select.1, filters.join(","));
            for Row(mut cells) in self.get(&query).await? {
                let version = cells.pop().flatten().unwrap_or_default();
                let Some(&place) = self.key_of(&cells).and_then(|key| places.get(&key)) else { continue };
                seen[place] = Some(Seen { hash: hash(&cells), version });
            }
        }
        Ok(seen)
    }

    /// Returns once the target holds all that was committed before this point: what was confirmed to the source is there.
    pub async fn wait(&mut self, at: Lsn) -> Result<(), Trouble> {
        let at = Position::at(at);
        if let Some(reached) = &mut self.reached {
            return Ok(told(reached, at, self.patience).await?);
        }
        let mut patience = Patience::new();
        loop {
            let row = self.source.query_opt(CONFIRMED, &[&self.slot]).await;
            let row = row.map_err(|error| pg::client::fault(&error))?;
            let confirmed: Option<Lsn> = row.and_then(|row| row.get::<_, Option<String>>(0)?.parse().ok());
            let Some(confirmed) = confirmed else {
                let cause = format!("there is no slot {}, so that nobody knows how far the target is", self.slot);
                return Err(Fault::stop(cause, "lockstep run").into());
            };
            if Position::at(confirmed) >= at {
                return Ok(());
            }
            patience.behind(Position::at(confirmed)).await?;
        }
    }

    /// Reads the rows of a range, at most `most` of them, in the key's order as the target has it.
    async fn walk(
        &mut self,
        (after, upto): &Bounds,
        most: u64,
        mut each: impl FnMut(Key, String),
    ) -> Result<(), Trouble> {
        let (mut after, mut left, mut first) = (after.clone(), most, true);
        while left > 0 {
            let begun = Instant::now();
            if !std::mem::take(&mut first) {
                let now = inlet::write(self.source, self.settings.marks, "compare").await?;
                self.wait(now).await?; // the stream goes first
            }
            let asked = self.settings.at_once(self.limit).min(left);
            let bounds = (after.take(), upto.clone());
            let filter = within(&self.table.key, &bounds);
            if filter.len() > REST_BYTES {
                let cause = "a key is too long for an address, by which plain PostgREST finds rows";
                return Err(Fault::stop(cause, "install our SQL in Supabase: lockstep setup supabase").into());
            }
            let query = format!("select={}&{filter}&order={}&limit={asked}", self.select.0, self.order);
            let before = self.cost.received;
            let rows = match self.get(&query).await {
                Err(Trouble::TooMuch) if asked > 1 => {
                    self.limit = (asked / 8).max(1);
                    after = bounds.0;
                    continue;
                }
                answer => answer?,
            };
            let came = rows.len() as u64;
            left -= came.min(left);
            for Row(cells) in rows {
                let Some(key) = self.key_of(&cells) else { continue };
                after = Some(key.clone());
                each(key, hash(&cells));
            }
            self.fit(came, self.cost.received - before);
            self.settings.slow(came, begun).await;
            // Fewer than were asked for are all there are; unless answers are cut, which shows by asking on.
            let cut = came >= self.most && came > 0;
            self.most = self.most.max(came);
            if came < asked && !cut {
                break;
            }
        }
        Ok(())
    }

    /// The next page is as large as pages are meant to be; at most four times the last one.
    fn fit(&mut self, rows: u64, bytes: u64) {
        if let Some(average) = bytes.checked_div(rows) {
            self.limit = (PAGE_BYTES / average.max(1)).clamp(1, MOST_ROWS).min(self.limit * 4);
        }
    }

    fn key_of(&self, cells: &[Option<String>]) -> Option<Key> {
        self.key.iter().map(|&at| cells.get(at)?.clone()).collect()
    }

    async fn get(&mut self, query: &str) -> Result<Vec<Row>, Trouble> {
        let request = TableRequest {
            verb: Verb::Read,
            table: self.table.name.clone(),
            query: query.to_owned(),
            body: bytes::Bytes::new(),
        };
        let table = &self.table.name;
        let mut attempts = Attempts::new();
        loop {
            self.cost.requests += 1;
            let begun = Instant::now();
            match self.client.table(&request).await {
                Ok(answer) => {
                    let sizes = Sizes { sent: request.query.len() as u64, received: answer.body.len() as u64 };
                    self.cost.add(sizes, begun);
                    let strange = |error| Fault::retry(format!("{table}: PostgREST answers no list of rows: {error}"));
                    return serde_json::from_slice(&answer.body).map_err(|error| strange(error).into());
                }
                Err(failure) => attempts.failed(&failure, |failure| setup(failure, table, 0)).await?,
            }
        }
    }
}

/// Filters in lists that fit into an address.
fn chunks(filters: impl Iterator<Item = String>, room: usize) -> Result<Vec<Vec<String>>, Fault> {
    let (mut all, mut size): (Vec<Vec<String>>, usize) = (Vec::new(), usize::MAX);
    for filter in filters {
        if filter.len() > FILTER_BYTES {
            let cause = "a key is too long for an address, by which plain PostgREST finds rows";
            return Err(Fault::stop(cause, "install our SQL in Supabase: lockstep setup supabase"));
        }
        let cost = filter.len() + 1;
        match all.last_mut() {
            Some(list) if size.saturating_add(cost) <= room => {
                list.push(filter);
                size += cost;
            }
            _ => {
                all.push(vec![filter]);
                size = cost;
            }
        }
    }
    Ok(all)
}
