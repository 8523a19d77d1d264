//! A service that runs for years: it ends gracefully, comes back by itself whatever goes away, and is in nobody's way.

use std::time::{Duration, Instant};

use lockstep::lab::{Mishap, Stop, TcpProxy, logged};

use super::rig::{Rig, public, says_nothing_of_a_journal, until};

const LEDGER: &str = "create table ledger (id int primary key, body text)";

async fn streaming() -> Rig {
    let mut rig = Rig::new(LEDGER).await;
    rig.pair.log_changes(&public(&["ledger"])).await.unwrap();
    rig.start();
    rig.settled().await;
    rig
}

async fn insert(rig: &Rig, from: u32, to: u32) {
    let sql = format!("insert into ledger select i, 'row ' || i from generate_series({from}, {to}) i");
    rig.pair.source.execute(&sql).await.unwrap();
}

async fn count(rig: &Rig) -> u64 {
    rig.pair.supabase.cluster.value("select count(*) from ledger").await.unwrap().parse().unwrap()
}

/// The HTTP status of one of the probes.
async fn probe(rig: &Rig, path: &str) -> u16 {
    let answer = rig.get(&format!("/{path}")).await;
    answer.map_or(0, |answer| answer.status().as_u16())
}

async fn ready(rig: &Rig) {
    until("ready", async || probe(rig, "readyz").await == 200).await;
}

/// Inserts that the slot would send to whoever starts now; or that the journal still holds.
async fn inserts_to_come(rig: &Rig) -> u64 {
    if rig.by_journal() {
        let kept = "select count(*) from lockstep.journal where op = 'i'";
        return rig.pair.source.value(kept).await.unwrap().parse().unwrap();
    }
    // A server that still ends the old stream holds the slot for a moment.
    until("the slot is free", async || {
        rig.pair.source.value("select count(*) from pg_replication_slots where active").await.unwrap() == "0"
    })
    .await;
    const PEEK: &str = "select count(*) filter (where get_byte(data, 0) = ascii('I'))
        from pg_logical_slot_peek_binary_changes('lockstep', null, null, 'proto_version', '1',
                                                 'publication_names', 'lockstep')";
    rig.pair.source.value(PEEK).await.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_it_finishes_what_is_in_flight_and_the_source_knows() {
    let mut rig = streaming().await;
    let faults = rig.pair.supabase.faults().clone();
    faults.aim("rpc/lockstep_apply");
    faults.random(Mishap::Slow(Duration::from_millis(150)), 1.0, 1);
    faults.random(Mishap::AnswerLost, 0.3, 2);
    for n in 0..20 {
        insert(&rig, n * 100, n * 100 + 99).await;
    }
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
    let arrived = count(&rig).await;
    assert!(arrived > 0, "nothing was in flight");
    assert_eq!(inserts_to_come(&rig).await, 2000 - arrived, "what the source keeps is what the target lacks");

    faults.clear();
    rig.start();
    rig.settled().await;
    rig.assert_equal(&public(&["ledger"])).await;
    let log = logged(&rig.pair.supabase.cluster.connect().await.unwrap()).await.unwrap();
    assert_eq!(log.len(), 2000, "each row once");
    assert_eq!(rig.metric("lockstep_duplicates_total").await, 0.0, "the new start sent something again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_hangs_does_not_keep_it_from_ending() {
    let mut rig = streaming().await;
    assert_eq!(rig.terminate().await, Some(0));
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[shutdown]\ndeadline = \"1s\"\n").unwrap();
    rig.start();
    rig.settled().await;
    let faults = rig.pair.supabase.faults().clone();
    faults.aim("rpc/lockstep_apply");
    faults.next(Mishap::Slow(Duration::from_secs(600)), 1);
    insert(&rig, 1, 10).await;
    until("the request hangs", async || faults.counts().slow == 1).await;
    let asked = Instant::now();
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
    let took = asked.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(10), "it took {took:?}");
    assert!(rig.tail().contains("sent again after the next start"), "{}", rig.tail());

    faults.clear();
    rig.start();
    rig.settled().await;
    rig.assert_equal(&public(&["ledger"])).await;
    let log = logged(&rig.pair.supabase.cluster.connect().await.unwrap()).await.unwrap();
    assert_eq!(log.len(), 10, "each row once");
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_in_the_middle_of_a_first_copy_it_drains_too_and_goes_on_from_there() {
    let mut rig = Rig::new(LEDGER).await;
    let sql = "insert into ledger select i, repeat('wide ', 40) || i from generate_series(1, 30000) i";
    rig.pair.source.execute(sql).await.unwrap();
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[copy]\nchunk_bytes = \"32kB\"\n").unwrap();
    rig.pair.log_changes(&public(&["ledger"])).await.unwrap();
    // Held up a little, so that the request to stop comes in the middle.
    let faults = rig.pair.supabase.faults().clone();
    faults.aim("rpc/lockstep_apply");
    faults.random(Mishap::Slow(Duration::from_millis(50)), 1.0, 1);
    rig.start();
    until("some of it is copied", async || count(&rig).await > 2_000).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
    assert!(rig.tail().contains("capture ends its stream"), "it was cut off, not drained:\n{}", rig.tail());
    let copied = count(&rig).await;
    assert!(copied < 30_000, "the copy was over too soon");
    let noted = "select rows from lockstep.copy where table_name = 'ledger'";
    assert_eq!(rig.pair.supabase.cluster.value(noted).await.unwrap(), copied.to_string());

    faults.clear();
    rig.start();
    rig.settled().await;
    rig.assert_equal(&public(&["ledger"])).await;
    let log = logged(&rig.pair.supabase.cluster.connect().await.unwrap()).await.unwrap();
    assert_eq!(log.len(), 30_000, "each row once: nothing was copied again");
}

/// Down: not ready and says so, alive all the same, and the verb `status` fails. Back: ready by itself.
async fn goes_and_comes_back(
    rig: &mut Rig,
    what: &str,
    go: impl AsyncFnOnce(&mut Rig),
    come: impl AsyncFnOnce(&mut Rig),
) {
    ready(rig).await;
    assert_eq!(rig.verb(&["status"]).await.0, Some(0), "{what}: in step before");
    go(rig).await;
    until(&format!("{what}: not ready"), async || probe(rig, "readyz").await == 503).await;
    let status = rig.status().await.unwrap();
    assert!(status["last_error"]["cause"].is_string(), "{what}: it says why: {status}");
    assert_ne!(status["verdict"], "in_step", "{what}: {status}");
    assert_eq!(probe(rig, "healthz").await, 200, "{what}: alive all the same");
    let (code, out, _) = rig.verb(&["status"]).await;
    assert!(code == Some(1) && !out.contains("postgres:"), "{what}: `status` says {code:?}:\n{out}");
    come(rig).await;
    ready(rig).await;
    rig.settled().await;
    assert_eq!(rig.verb(&["status"]).await.0, Some(0), "{what}: in step again\n{}", rig.tail());
    rig.assert_equal(&public(&["ledger"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_away_and_comes_back_it_goes_on_by_itself() {
    let mut rig = Rig::new(LEDGER).await;
    rig.pair.log_changes(&public(&["ledger"])).await.unwrap();
    let proxy = TcpProxy::start(rig.pair.source.port()).await.unwrap();
    rig.source_url = proxy.url(&rig.pair.source, "postgres");
    rig.start();
    rig.settled().await;
    let pid = rig.pid();

    let go = async |rig: &mut Rig| rig.pair.source.stop(Stop::Fast).await.unwrap();
    let come = async |rig: &mut Rig| {
        rig.pair.source.start().await.unwrap();
        insert(rig, 1, 10).await;
    };
    goes_and_comes_back(&mut rig, "the source", go, come).await;

    let go = async |_: &mut Rig| proxy.refuse();
    let come = async |rig: &mut Rig| {
        insert(rig, 11, 20).await;
        proxy.resume();
    };
    goes_and_comes_back(&mut rig, "the way to the source", go, come).await;

    let go = async |rig: &mut Rig| {
        rig.pair.supabase.postgrest.stop().await;
        insert(rig, 21, 30).await;
    };
    let come = async |rig: &mut Rig| rig.pair.supabase.postgrest.restart().await.unwrap();
    goes_and_comes_back(&mut rig, "PostgREST", go, come).await;

    let go = async |rig: &mut Rig| {
        rig.pair.supabase.cluster.stop(Stop::Fast).await.unwrap();
        insert(rig, 31, 40).await;
    };
    let come = async |rig: &mut Rig| rig.pair.supabase.cluster.start().await.unwrap();
    goes_and_comes_back(&mut rig, "the target's Postgres", go, come).await;

    let go = async |rig: &mut Rig| {
        rig.pair.supabase.faults().down().await;
        insert(rig, 41, 50).await;
    };
    let come = async |rig: &mut Rig| rig.pair.supabase.faults().up().await;
    goes_and_comes_back(&mut rig, "the gateway", go, come).await;

    assert_eq!(rig.pid(), pid, "it is the same process");
    let log = logged(&rig.pair.supabase.cluster.connect().await.unwrap()).await.unwrap();
    assert_eq!(log.len(), 50, "each row once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_gone_is_asked_less_and_less_often() {
    let mut rig = Rig::new(LEDGER).await;
    let proxy = TcpProxy::start(rig.pair.source.port()).await.unwrap();
    rig.source_url = proxy.url(&rig.pair.source, "postgres");
    rig.start();
    rig.settled().await;
    proxy.refuse();
    let waits = || {
        let log = std::fs::read_to_string(rig.log()).unwrap_or_default();
        log.lines().filter_map(retry_in).collect::<Vec<f64>>()
    };
    until("it has tried six times", async || waits().len() >= 6).await;
    // From a tenth of a second, doubled each time, and jitter on top.
    let tried = waits();
    assert!(tried[0] < 0.5 && tried[5] > 2.0, "the waits do not grow: {tried:?}");
    proxy.resume();
    rig.settled().await;
}

/// Seconds of `retry_in=1.5s`.
fn retry_in(line: &str) -> Option<f64> {
    let text = line.split_once("retry_in=")?.1.split_whitespace().next()?;
    match text.strip_suffix("ms") {
        Some(millis) => millis.parse::<f64>().ok().map(|millis| millis / 1000.0),
        None => text.strip_suffix('s')?.parse().ok(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_route_lets_a_busy_source_forget_its_wal() {
    if says_nothing_of_a_journal("it keeps no WAL") {
        return;
    }
    let mut rig = streaming().await;
    insert(&rig, 1, 3).await;
    rig.settled().await;
    for _ in 0..5 {
        // Not in the publication.
        let sql = "create schema if not exists other; create table if not exists other.busy (i int, t text);
                   insert into other.busy select i, repeat('x', 100) from generate_series(1, 20000) i";
        rig.pair.source.execute(sql).await.unwrap();
    }
    let end = rig.pair.source.value("select pg_current_wal_insert_lsn()").await.unwrap();
    let confirmed = format!("select confirmed_flush_lsn >= '{end}' from pg_replication_slots");
    until("the source may forget it", async || rig.pair.source.value(&confirmed).await.unwrap() == "t").await;
    // It is the checkpoint that has moved: the slot is never ahead of what the target knows.
    let confirmed = "select pg_wal_lsn_diff(confirmed_flush_lsn, '0/0')::int8 from pg_replication_slots";
    let confirmed: u64 = rig.pair.source.value(confirmed).await.unwrap().parse().unwrap();
    let checkpoint = rig.pair.supabase.cluster.value("select major from lockstep.checkpoint").await.unwrap();
    assert!(confirmed <= checkpoint.parse().unwrap(), "confirmed {confirmed} is ahead of the checkpoint {checkpoint}");
    insert(&rig, 4, 6).await;
    rig.kill9().await;
    rig.start();
    rig.settled().await;
    rig.assert_equal(&public(&["ledger"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_can_be_stopped_while_it_is_connected() {
    let mut rig = streaming().await;
    insert(&rig, 1, 100).await;
    // A fast shutdown waits until the walsender is told that everything has arrived; for no other session it waits.
    let asked = Instant::now();
    rig.pair.source.stop(Stop::Fast).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
    if rig.by_journal() {
        rig.pair.source.start().await.unwrap();
        rig.settled().await;
    }
    assert_eq!(count(&rig).await, 100, "and everything had arrived");
}
