//! Twenty minutes of everything at once: random tables and traffic, crashes of every part, a gateway that loses
//! requests and answers, columns that come on both sides. Now and then all is let run out and both sides are compared.
//!
//! `make soak`; `SOAK_MINUTES` makes it shorter or longer, `LOCKSTEP_SEED` repeats the choices of an earlier run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use lockstep::lab::{Owner, PairOptions, Seeded, SupabaseOptions, TcpProxy};
use tokio::task::JoinSet;

use super::chaos::{Address, crash};
use super::random_schemas::Schema;
use super::rig::{Rig, rss, seed, until};

/// How often all is let run out and compared.
const COMPARE: Duration = Duration::from_secs(45);
/// What memory may grow by between the half and the end of a run in which the service is not killed any more.
const GROWTH: u64 = 48 << 20;

#[derive(Default)]
struct Traffic {
    pause: AtomicBool,
    stop: AtomicBool,
    committed: AtomicU64,
    /// Writers that are within a transaction.
    busy: AtomicU64,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes twenty minutes: make soak"]
async fn twenty_minutes_of_everything_at_once_leave_both_sides_equal_and_memory_flat() {
    let seed = seed();
    let minutes: f64 = std::env::var("SOAK_MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(20.0);
    println!("LOCKSTEP_SEED={seed} SOAK_MINUTES={minutes}");
    let mut chance = Seeded::new(seed);
    let schema = Schema::new(&mut chance);
    let owner = if chance.happens(0.3) { Owner::Plain } else { Owner::SetReplicationRole };
    let supabase = SupabaseOptions { owner, ..SupabaseOptions::default() };
    let mut rig = Rig::with(PairOptions { supabase, ..PairOptions::default() }, &schema.ddl()).await;
    rig.pair.supabase.execute(Schema::GRANTS).await.unwrap();
    let settings = "[tables]\nschemas = [\"public\", \"Other Place\"]\n[copy]\nchunk_bytes = \"64kB\"\n";
    std::fs::write(rig.dir.path().join("lockstep.toml"), settings).unwrap();
    rig.env = vec![("LOCKSTEP_LOOK_AGAIN".into(), "1s".into())];
    rig.pair.source.execute(&schema.fill(&mut chance)).await.unwrap();
    let proxy = TcpProxy::start(rig.pair.source.port()).await.unwrap();
    rig.source_url = proxy.url(&rig.pair.source, "postgres");
    rig.pair.supabase.faults().aim("rpc/lockstep_");
    rig.start();

    let (schema, traffic) = (Arc::new(RwLock::new(schema)), Arc::new(Traffic::default()));
    let mut writers = JoinSet::new();
    for n in 0..2 {
        let address = Address { sockets: rig.pair.source.sockets().to_owned(), port: rig.pair.source.port() };
        let chance = Seeded::new(seed.wrapping_mul(31) + n);
        writers.spawn(write(address, chance, schema.clone(), traffic.clone()));
    }
    let begun = Instant::now();
    let length = Duration::from_secs_f64(minutes * 60.0);
    let (mut happened, mut memory) = (BTreeMap::<&'static str, u32>::new(), Vec::new());
    let mut next_compare = begun + COMPARE.min(length / 6);
    while begun.elapsed() < length {
        // In the second half the service is left alive, so that its memory tells something.
        let what = match chance.below(20) {
            0 => add_column(&rig, &schema, &mut chance).await,
            _ => crash(&mut rig, &proxy, &mut chance, begun.elapsed() < length / 2).await,
        };
        *happened.entry(what).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(chance.below(2500))).await;
        assert!(!rig.has_ended(), "LOCKSTEP_SEED={seed}: the service ended:\n{}", rig.tail());
        if Instant::now() > next_compare {
            compare(&mut rig, &schema, &traffic, seed).await;
            report(&rig, begun, &traffic, &mut memory, begun.elapsed() > length / 2).await;
            next_compare = Instant::now() + COMPARE.min(length / 6);
        }
    }
    compare(&mut rig, &schema, &traffic, seed).await;
    report(&rig, begun, &traffic, &mut memory, true).await;
    traffic.stop.store(true, Relaxed);
    while let Some(end) = writers.join_next().await {
        end.unwrap();
    }
    println!("{} transactions beside {happened:?}", traffic.committed.load(Relaxed));
    assert!(traffic.committed.load(Relaxed) as f64 > 100.0 * minutes, "there was hardly any traffic");
    assert_eq!(rig.metric("lockstep_rows_dropped_total").await, 0.0);
    let (first, last) = (memory[0], memory[memory.len() - 1]);
    assert!(last < first + GROWTH, "memory grew from {first} to {last} bytes");
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

/// Lets everything run out; then both sides are equal and nothing is parked.
async fn compare(rig: &mut Rig, schema: &RwLock<Schema>, traffic: &Traffic, seed: u64) {
    traffic.pause.store(true, Relaxed);
    until("the writers pause", async || traffic.busy.load(Relaxed) == 0).await;
    rig.pair.supabase.faults().clear();
    rig.settled().await;
    let tables = schema.read().unwrap().names();
    let parked = "select coalesce(string_agg(format('%s.%s %s %s: %s', schema_name, table_name, operation, key, reason), e'\\n'), '')
        from lockstep.parked";
    // What was refused while its table was compared is tried again right behind that.
    let mut held = String::new();
    let soon = Instant::now() + Duration::from_secs(20);
    while Instant::now() < soon {
        held = rig.pair.supabase.cluster.value(parked).await.unwrap();
        if held.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let differences = rig.pair.differences(&tables).await.unwrap();
    let said = format!("LOCKSTEP_SEED={seed}\n{}\nparked: {held}\n{}", differences.join("\n"), rig.tail());
    assert!(differences.is_empty() && held.is_empty(), "{said}");
    rig.pair.supabase.faults().aim("rpc/lockstep_");
    traffic.pause.store(false, Relaxed);
}

async fn report(rig: &Rig, begun: Instant, traffic: &Traffic, memory: &mut Vec<u64>, counts: bool) {
    let now = rig.pid().map_or(0, rss);
    if counts {
        memory.push(now);
    }
    let (committed, replays) = (traffic.committed.load(Relaxed), rig.metric("lockstep_replays_total").await);
    let seconds = begun.elapsed().as_secs();
    println!("{seconds:5} s: equal after {committed} transactions; {} MiB, {replays} replays", now >> 20);
}

/// A column more on both sides, here or there first, and from then on the traffic writes it.
async fn add_column(rig: &Rig, schema: &RwLock<Schema>, chance: &mut Seeded) -> &'static str {
    let target_first = chance.happens(0.5);
    let addition = schema.read().unwrap().addition(chance);
    let Some((sql, _)) = &addition else { return "as many columns as one wants" };
    for target in [target_first, !target_first] {
        until("the column is added", async || match target {
            true => rig.pair.supabase.execute(sql).await.is_ok(),
            false => rig.pair.source.execute(sql).await.is_ok(),
        })
        .await;
        // Rows come before the other side has it.
        tokio::time::sleep(Duration::from_millis(chance.below(1500))).await;
    }
    if let Some((_, column)) = addition {
        schema.write().unwrap().add(column);
    }
    if target_first { "column added, target first" } else { "column added, source first" }
}

async fn write(address: Address, mut chance: Seeded, schema: Arc<RwLock<Schema>>, traffic: Arc<Traffic>) {
    let mut pace = tokio::time::interval(Duration::from_millis(25));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut client = None;
    while !traffic.stop.load(Relaxed) {
        pace.tick().await;
        let Some(connected) = &client else {
            client = address.connect().await;
            continue;
        };
        traffic.busy.fetch_add(1, Relaxed);
        if !traffic.pause.load(Relaxed) {
            let sql = schema.read().unwrap().transaction(&mut chance);
            match connected.batch_execute(&sql).await {
                Ok(()) => drop(traffic.committed.fetch_add(1, Relaxed)),
                // A key that is taken, a deadlock: the source refused it, so nothing of it may arrive.
                Err(error) if error.as_db_error().is_some() => drop(connected.batch_execute("rollback").await),
                Err(_) => client = None,
            }
        }
        traffic.busy.fetch_sub(1, Relaxed);
    }
}
