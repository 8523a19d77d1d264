//! Finds the rows that seem to differ: from large parts to small ones to rows. What is equal on the way is done with.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::check::Check;
use super::part::{Bounds, Digest, Key};
use super::target::Trouble;

/// Parts that one request asks for.
const PARTS: u64 = 10;
/// Rows of a part, at first, at most and at least. Most make a million rows cost five requests; the size follows the
/// time that the target takes.
const ROWS: (u64, u64, u64) = (5_000, 20_000, 50);
/// A request is meant to take about this long: long enough to be worth its trip, short enough to hold up nobody.
const TAKES: Duration = Duration::from_secs(1);

/// Rows of the smallest part, whose rows are compared one by one.
const LEAF: u64 = 250;
/// Leaves that one request asks digests of, and rows of.
const LEAVES: usize = 200;
const LEAVES_OF_ROWS: usize = 40;
/// Rows of one leaf in an answer. The target may hold any number where the source holds few.
const PAGE: u64 = 2_000;

/// Blocks that one statement reads of a table that is divided by hash, at first: 16 MiB.
const BLOCKS: u64 = 2_048;
/// A part of such a table has about as many rows; at most so many parts.
const COARSE: (u64, u64) = (20_000, 1_024);
/// Into so many is one of them divided.
const FAN: u32 = 100;
/// Rows that are held in memory while rows of small parts are compared.
const ROWS_HELD: u64 = 500_000;
/// More parts than this are not named in a request; all are read, and the others thrown away.
const NAMED: usize = 5_000;

impl Check<'_> {
    /// A table whose key both sides sort alike.
    pub(super) async fn walk_ranges(&mut self) -> Result<(), Trouble> {
        let (_, most, least) = ROWS;
        let allowed = |size: u64| (self.settings.at_once(size * PARTS) / PARTS).clamp(1, most);
        let most = allowed(most);
        let least = least.min(most);
        let mut size = allowed(ROWS.0);
        let mut after: Option<Key> = None;
        loop {
            let begun = Instant::now();
            let parts = self.source.ranges(after.as_ref(), None, Some(size * PARTS), size).await?;
            let mark = self.source.mark().await?;
            let wanted: Vec<Bounds> = parts.iter().map(|(part, _)| part.clone()).collect();
            let theirs = match self.target.ranges(mark, &wanted).await {
                Err(Trouble::TooMuch) if size > least => {
                    size = (size / 8).max(least);
                    continue;
                }
                answer => answer?,
            };
            let rows = parts.iter().map(|(_, digest)| digest.rows).sum();
            let end = wanted.last().and_then(|(_, upto)| upto.clone());
            let differ = parts.into_iter().zip(&theirs).filter(|((_, ours), theirs)| ours != *theirs);
            for ((part, ours), theirs) in differ.collect::<Vec<_>>() {
                self.part(part, &ours, theirs).await?;
            }
            self.pace(rows, begun).await;
            match end {
                Some(end) => after = Some(end),
                None => return Ok(()),
            }
            let factor = (TAKES.as_secs_f64() / self.target.cost().took.as_secs_f64().max(0.001)).clamp(0.25, 4.0);
            size = ((size as f64 * factor) as u64).clamp(least, most);
        }
    }

    /// A range that differs: divides it into leaves, and compares the rows of those that differ.
    async fn part(&mut self, whole: Bounds, ours: &Digest, theirs: &Digest) -> Result<(), Trouble> {
        if self.heals && theirs.rows == 0 {
            let keys = self.source.rows(&[whole]).await?.into_keys().collect();
            return self.write_all(keys).await;
        }
        if self.target.reads_rows() {
            return self.long_leaf(whole).await; // smaller digests would cost as much as the rows
        }
        if ours.rows.max(theirs.rows) <= LEAF {
            return self.leaves(&[whole]).await;
        }
        let leaves = self.source.ranges(whole.0.as_ref(), whole.1.as_ref(), None, LEAF).await?;
        for leaves in leaves.chunks(LEAVES) {
            let mark = self.source.mark().await?;
            let wanted: Vec<Bounds> = leaves.iter().map(|(leaf, _)| leaf.clone()).collect();
            let theirs = self.target.ranges(mark, &wanted).await?;
            let differ = leaves.iter().zip(&theirs).zip(wanted).filter(|(((_, ours), theirs), _)| ours != *theirs);
            let differ: Vec<Bounds> = differ.map(|(_, bounds)| bounds).collect();
            for leaves in differ.chunks(LEAVES_OF_ROWS) {
                self.leaves(leaves).await?;
            }
        }
        Ok(())
    }

    async fn leaves(&mut self, leaves: &[Bounds]) -> Result<(), Trouble> {
        let mark = self.source.mark().await?;
        let theirs = self.target.rows(mark, leaves, PAGE).await?;
        let (mut short, mut rows, mut long) = (Vec::new(), Vec::new(), Vec::new());
        for (leaf, theirs) in leaves.iter().zip(theirs) {
            if theirs.len() as u64 >= PAGE {
                long.push(leaf.clone());
            } else {
                short.push(leaf.clone());
                rows.extend(theirs);
            }
        }
        let ours = self.source.rows(&short).await?;
        self.suspect(differing(ours, rows)).await?;
        for leaf in long {
            self.long_leaf(leaf).await?;
        }
        Ok(())
    }

    /// The target holds many rows where the source holds few: page by page.
    async fn long_leaf(&mut self, (mut after, upto): Bounds) -> Result<(), Trouble> {
        loop {
            let mark = self.source.mark().await?;
            let answer = self.target.rows(mark, &[(after.clone(), upto.clone())], PAGE).await?;
            let theirs = answer.into_iter().next().unwrap_or_default();
            let is_last = (theirs.len() as u64) < PAGE;
            let end = if is_last { upto.clone() } else { theirs.last().map(|(key, _)| key.clone()) };
            let ours = self.source.rows(&[(after, end.clone())]).await?;
            self.suspect(differing(ours, theirs)).await?;
            if is_last {
                return Ok(());
            }
            after = end;
        }
    }

    /// A table whose key the sides may sort differently: divided by a hash of the key. An equal one is read once, one
    /// that differs up to three times.
    pub(super) async fn walk_buckets(&mut self, blocks: u64) -> Result<(), Trouble> {
        // Without an estimate, by the size: some tens of rows a block.
        let estimated = self.table.estimated_rows.max(self.source.blocks * 20);
        let coarse = (estimated / COARSE.0 + 1).min(COARSE.1) as u32;
        let fine = coarse * FAN;
        let differ = if self.target.reads_rows() {
            self.buckets(fine, None, blocks, true).await? // each look reads all rows: one look less
        } else {
            let differ = self.buckets(coarse, None, blocks, true).await?;
            if differ.is_empty() {
                return Ok(());
            }
            let wanted: Vec<u32> = differ.keys().flat_map(|of| (0..FAN).map(move |n| of + n * coarse)).collect();
            self.buckets(fine, Some(&wanted), blocks, false).await?
        };
        let mut group = (Vec::new(), 0);
        for (of, rows) in differ {
            group.0.push(of);
            group.1 += rows;
            if group.1 > ROWS_HELD {
                self.rows_of_buckets(fine, &std::mem::take(&mut group).0, blocks).await?;
            }
        }
        if !group.0.is_empty() {
            self.rows_of_buckets(fine, &group.0, blocks).await?;
        }
        Ok(())
    }

    /// The buckets that differ, and how many rows they have on both sides.
    async fn buckets(
        &mut self,
        modulus: u32,
        of: Option<&[u32]>,
        blocks: u64,
        counts: bool,
    ) -> Result<BTreeMap<u32, u64>, Trouble> {
        let named = of.filter(|of| of.len() <= NAMED);
        let (mut ours, mut theirs) = (HashMap::<u32, Digest>::new(), HashMap::<u32, Digest>::new());
        let rows_in = |digests: &HashMap<u32, Digest>| digests.values().map(|digest| digest.rows).sum::<u64>();
        for piece in pieces(self.source.blocks, self.blocks_at_once(self.source.blocks)) {
            let begun = Instant::now();
            let digests = self.source.buckets(modulus, named, piece).await?;
            match counts {
                true => self.pace(rows_in(&digests), begun).await,
                false => self.settings.slow(rows_in(&digests), begun).await,
            }
            add(&mut ours, digests);
        }
        let mut at_once = self.blocks_at_once(blocks);
        let mut rest = pieces(blocks, at_once);
        while let Some(piece) = rest.first().copied() {
            let begun = Instant::now();
            // A mark for each piece: that is how the comparison waits while the stream is behind.
            let mark = self.source.mark().await?;
            match self.target.buckets(mark, modulus, named, piece).await {
                Err(Trouble::TooMuch) if at_once > 1 => {
                    at_once = (at_once / 8).max(1);
                    rest = pieces_from(piece.0, blocks, at_once);
                }
                answer => {
                    let digests = answer?;
                    self.settings.slow(rows_in(&digests), begun).await;
                    add(&mut theirs, digests);
                    rest.remove(0);
                }
            }
        }
        let wanted: Option<std::collections::HashSet<u32>> = of.map(|of| of.iter().copied().collect());
        let mut differ = BTreeMap::new();
        for of in ours.keys().chain(theirs.keys()) {
            let (here, there) = (ours.get(of), theirs.get(of));
            if here != there && wanted.as_ref().is_none_or(|wanted| wanted.contains(of)) {
                differ.insert(*of, here.map_or(0, |digest| digest.rows) + there.map_or(0, |digest| digest.rows));
            }
        }
        Ok(differ)
    }

    /// Of a table of so many blocks, by the rows that a second allows.
    fn blocks_at_once(&self, blocks: u64) -> u64 {
        let rows_of_a_block = (self.table.estimated_rows / blocks.max(1)).max(20);
        (self.settings.at_once(BLOCKS * rows_of_a_block) / rows_of_a_block).clamp(1, BLOCKS)
    }

    /// About so many rows lie in these blocks; what has no end is as long as the others are.
    fn rows_of(&self, (from, to): (u64, Option<u64>)) -> u64 {
        let rows_of_a_block = (self.table.estimated_rows / self.source.blocks.max(1)).max(20);
        to.map_or(0, |to| (to - from) * rows_of_a_block)
    }

    async fn rows_of_buckets(&mut self, modulus: u32, of: &[u32], blocks: u64) -> Result<(), Trouble> {
        let (mut ours, mut theirs) = (HashMap::new(), Vec::new());
        // Few rows come of what is read: by the blocks it is as slow as it was before.
        for piece in pieces(self.source.blocks, self.blocks_at_once(self.source.blocks)) {
            let begun = Instant::now();
            ours.extend(self.source.rows_of_buckets(modulus, of, piece).await?);
            self.settings.slow(self.settings.at_once(self.rows_of(piece)), begun).await;
        }
        for piece in pieces(blocks, self.blocks_at_once(blocks)) {
            let begun = Instant::now();
            let mark = self.source.mark().await?;
            theirs.extend(self.target.rows_of_buckets(mark, modulus, of, piece).await?);
            self.settings.slow(self.settings.at_once(self.rows_of(piece)), begun).await;
        }
        self.suspect(differing(ours, theirs)).await
    }
}

/// Keys that are not the same on both sides. A row that moved while it was read may be here twice; it is looked at.
fn differing(mut ours: HashMap<Key, String>, theirs: Vec<(Key, String)>) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    for (key, hash) in theirs {
        match ours.remove(&key) {
            Some(same) if same == hash => {}
            _ => keys.push(key),
        }
    }
    keys.extend(ours.into_keys());
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn add(all: &mut HashMap<u32, Digest>, more: HashMap<u32, Digest>) {
    for (of, digest) in more {
        let sum = all.get(&of).map_or_else(|| digest.clone(), |before| before.plus(&digest));
        all.insert(of, sum);
    }
}

/// Blocks to read at once; the last piece has no end, as the table may have grown.
fn pieces(blocks: u64, at_once: u64) -> Vec<(u64, Option<u64>)> {
    pieces_from(0, blocks, at_once)
}

fn pieces_from(from: u64, blocks: u64, at_once: u64) -> Vec<(u64, Option<u64>)> {
    let mut pieces = Vec::new();
    let mut from = from;
    while from + at_once < blocks {
        pieces.push((from, Some(from + at_once)));
        from += at_once;
    }
    pieces.push((from, None));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_one_side_has_or_has_otherwise_is_suspect_and_nothing_else() {
        let key = |k: &str| vec![k.to_owned()];
        let ours = HashMap::from([(key("a"), "1".into()), (key("b"), "2".into()), (key("c"), "3".into())]);
        let theirs = vec![(key("a"), "1".into()), (key("b"), "9".into()), (key("d"), "4".into())];
        assert_eq!(differing(ours, theirs), [key("b"), key("c"), key("d")]);
    }

    #[test]
    fn pieces_leave_no_block_out_and_the_last_has_no_end() {
        assert_eq!(pieces(0, 10), [(0, None)]);
        assert_eq!(pieces(25, 10), [(0, Some(10)), (10, Some(20)), (20, None)]);
        assert_eq!(pieces_from(10, 25, 5), [(10, Some(15)), (15, Some(20)), (20, None)]);
    }
}
