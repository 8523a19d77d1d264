//! Commit to visible at a steady rate: from the commit until a `select` on a warm connection to the target shows the row.
//! The same for every way. The commit is looked at twice: when it was sent to the source, and when it was answered.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lockstep::lab::{Cluster, LabError, Result};

use crate::stage::{NATIVE, PATIENCE, Stage, failed};
use crate::way::Way;
use crate::work::goal;

/// Between two looks at the target: a tenth of the shortest wait there is to see.
const NAP: Duration = Duration::from_micros(100);

/// How far both sides are: the last row committed, the last row of this turn.
struct Shared {
    committed: AtomicI64,
    last: AtomicBool,
}

/// How long one row took, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// Since its commit was sent.
    pub sent: f64,
    /// Since its commit was answered; no less than 0, for the target may be quicker than the answer.
    pub answered: f64,
}

/// The wait of each row; the first second warms up and is left out.
pub async fn measure(stage: &mut Stage, way: Way, rate: u64, seconds: u64) -> Result<Vec<Wait>> {
    let before = goal(stage).await?;
    let mut running = way.start(stage, None).await?;
    running.reach(stage, &before).await?;
    let first = stage.probes + 1;
    let rows = (rate * (seconds + 1)) as i64;
    stage.probes += rows;
    let database = if way == Way::Native { NATIVE } else { "postgres" };
    let (source, target) = (&stage.pair.source, &stage.pair.supabase.cluster);
    let shared = Shared { committed: AtomicI64::new(first - 1), last: AtomicBool::new(false) };
    // Each has a thread of its own: neither waits for the other, nor for the gateway in this process.
    let (committed, seen) = tokio::task::block_in_place(|| {
        thread::scope(|scope| {
            let writer = scope.spawn(|| alone(write(source, &shared, first, rows, rate)));
            let reader = scope.spawn(|| alone(watch(target, database, &shared, first, rows)));
            let gone = || LabError("a thread of the measurement broke".into());
            let written = writer.join().map_err(|_| gone()).flatten();
            shared.last.store(true, Ordering::Release);
            (written, reader.join().map_err(|_| gone()).flatten())
        })
    });
    running.stop(stage).await?;
    let waits = committed?.into_iter().zip(seen?).skip(rate as usize);
    let between = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
    let wait = |((sent, answered), seen)| Wait { sent: between(sent, seen), answered: between(answered, seen) };
    Ok(waits.map(wait).collect())
}

fn alone<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| failed(&error))?.block_on(work)
}

/// Commits rows at the rate; when each was sent and answered.
async fn write(source: &Cluster, shared: &Shared, first: i64, rows: i64, rate: u64) -> Result<Vec<(Instant, Instant)>> {
    let client = source.connect().await?;
    let insert = client.prepare("insert into probe values ($1::bigint, repeat(md5(($1::bigint)::text), 3))").await;
    let insert = insert.map_err(|error| failed(&error))?;
    let mut clock = tokio::time::interval(Duration::from_secs(1) / rate.max(1) as u32);
    let mut committed = Vec::with_capacity(rows as usize);
    for id in first..first + rows {
        clock.tick().await;
        let sent = Instant::now();
        client.execute(&insert, &[&id]).await.map_err(|error| failed(&error))?;
        committed.push((sent, Instant::now()));
        shared.committed.store(id, Ordering::Release);
    }
    Ok(committed)
}

/// Looks for the rows while any is on its way; when each was seen first.
async fn watch(target: &Cluster, database: &str, shared: &Shared, first: i64, rows: i64) -> Result<Vec<Instant>> {
    let client = target.connect_to(database).await?;
    let newest = client.prepare("select coalesce(max(id), 0) from probe").await.map_err(|error| failed(&error))?;
    let mut seen: Vec<Instant> = Vec::with_capacity(rows as usize);
    let mut heard = Instant::now();
    while (seen.len() as i64) < rows {
        if shared.committed.load(Ordering::Acquire) < first + seen.len() as i64 {
            if shared.last.load(Ordering::Acquire) && shared.committed.load(Ordering::Acquire) < first + rows - 1 {
                return Err(LabError("the source took not all rows".into()));
            }
            thread::sleep(Duration::from_micros(50));
            continue;
        }
        let row = client.query_one(&newest, &[]).await.map_err(|error| failed(&error))?;
        let newest: i64 = row.try_get(0).map_err(|error| failed(&error))?;
        let now = Instant::now();
        let fresh = (newest - first + 1 - seen.len() as i64).max(0);
        if fresh > 0 {
            heard = now;
        } else if heard.elapsed() > PATIENCE {
            return Err(LabError(format!("row {} did not arrive", first + seen.len() as i64)));
        } else {
            // Without a nap the one who looks takes a core from the ones who replicate.
            thread::sleep(NAP);
        }
        seen.extend(std::iter::repeat_n(now, fresh as usize));
    }
    Ok(seen)
}
