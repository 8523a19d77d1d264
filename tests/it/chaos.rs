//! A hundred random crashes under mixed traffic, first copy included. Afterwards both sides hold the same rows, and the
//! target's own log of changes shows that none came twice, none went missing and none came late.
//!
//! `LOCKSTEP_SEED` repeats the choices of an earlier run (not its timing); `LOCKSTEP_CRASHES` makes it longer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lockstep::lab::{Mishap, Owner, PairOptions, Seeded, TcpProxy};
use tokio::task::JoinSet;

use super::rig::{Rig, public, seed};

/// `version` comes from one sequence and is drawn under the row's lock: of one row it only rises.
const TABLES: &str = "
    create sequence version;
    create table ledger (id bigserial primary key, version bigint not null default nextval('version'), who int not null);
    create table account (id int primary key, version bigint not null default nextval('version'), balance bigint not null);
    create table doc (id int primary key, version bigint not null default nextval('version'), small int not null, big text);
    create table item (a int, b text, version bigint not null default nextval('version'), body text, primary key (a, b));
    create table scratch (id int primary key, version bigint not null default nextval('version'), body text);
";

const ALL: [&str; 5] = ["ledger", "account", "doc", "item", "scratch"];

/// Too large for its row and hard to compress: it is stored out of line, and an update of its neighbours leaves it out.
const BIG: &str = "(select string_agg(md5(random()::text), '') from generate_series(1, 150))";

/// Rows that are there before the first start, so that the first crashes hit the first copy.
fn rows_before() -> String {
    format!(
        "insert into ledger (who) select 0 from generate_series(1, 20000);
         insert into account select i, nextval('version'), 1000 from generate_series(1, 500) i;
         insert into doc select i, nextval('version'), 0, {BIG} || i from generate_series(1, 1000) i;
         insert into item select i % 5000, 'b' || i / 5000, nextval('version'), repeat('x', i % 100)
           from generate_series(1, 15000) i;
         insert into scratch select i, nextval('version'), 's' from generate_series(1, 200) i"
    )
}

fn crashes() -> usize {
    std::env::var("LOCKSTEP_CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(100)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_crashes_neither_lose_nor_double_nor_alter_a_row() {
    let seed = seed();
    println!("LOCKSTEP_SEED={seed}");
    let mut chance = Seeded::new(seed);
    let mut options = PairOptions::default();
    options.supabase.owner = Owner::SetReplicationRole; // as Supabase's own
    let mut rig = Rig::with(options, TABLES).await;
    rig.pair.source.execute(&rows_before()).await.unwrap();
    rig.pair.log_changes(&public(&ALL)).await.unwrap();
    let proxy = TcpProxy::start(rig.pair.source.port()).await.unwrap();
    rig.source_url = proxy.url(&rig.pair.source, "postgres");
    // Small ranges: the first copy takes long enough to be hit many times.
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[copy]\nchunk_bytes = \"64kB\"\n").unwrap();
    rig.pair.supabase.faults().aim("rpc/lockstep_");
    rig.start();

    let traffic = Arc::new(Traffic::default());
    let mut writers = JoinSet::new();
    for n in 0..3 {
        let address = Address { sockets: rig.pair.source.sockets().to_owned(), port: rig.pair.source.port() };
        writers.spawn(write(address, Seeded::new(seed.wrapping_mul(31) + n), n, traffic.clone()));
    }
    let mut copied_at = None;
    let mut happened = BTreeMap::<&'static str, u32>::new();
    for _ in 0..crashes() {
        let crash = crash(&mut rig, &proxy, &mut chance, true).await;
        *happened.entry(crash).or_default() += 1;
        if chance.happens(0.75) {
            catches_up(&rig, Duration::from_millis(1500)).await;
        }
        if copied_at.is_none() {
            copied_at = copies_done(&rig).await;
        }
        assert!(!rig.has_ended(), "the service ended:\n{}", rig.tail());
    }
    traffic.stop.store(true, Relaxed);
    while let Some(end) = writers.join_next().await {
        end.unwrap();
    }
    rig.pair.supabase.faults().clear();
    rig.settled().await;
    let committed = traffic.committed.load(Relaxed);
    println!("{committed} statements went through beside {happened:?}");
    assert!(committed > 500, "there was hardly any traffic: {committed}");

    rig.assert_equal(&public(&ALL)).await;
    let copied_at = match copied_at {
        Some(at) => at,
        None => copies_done(&rig).await.expect("the first copy ends"),
    };
    check_log(&rig, copied_at).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

/// Does one bad thing, to the service only with `kills`, and lets everything run again.
pub async fn crash(rig: &mut Rig, proxy: &TcpProxy, chance: &mut Seeded, kills: bool) -> &'static str {
    let faults = rig.pair.supabase.faults().clone();
    let times = 1 + chance.below(3) as usize;
    let brought = |mishap: Mishap| faults.next(mishap, times);
    match if kills { chance.below(100) } else { 25 + chance.below(74) } {
        0..25 => {
            rig.kill9().await;
            rig.start();
            "kill -9 of lockstep"
        }
        25..35 => {
            rig.pair.supabase.postgrest.kill9().await;
            rig.pair.supabase.postgrest.restart().await.unwrap();
            "kill -9 of PostgREST"
        }
        35..45 => {
            rig.pair.source.kill9().await;
            rig.pair.source.start().await.unwrap();
            "kill -9 of the source"
        }
        45..55 => {
            rig.pair.supabase.cluster.kill9().await;
            rig.pair.supabase.cluster.start().await.unwrap();
            "kill -9 of the target"
        }
        55..65 => {
            proxy.cut();
            "cut before the source"
        }
        65..72 => {
            faults.cut().await;
            "cut before the target"
        }
        72..82 => {
            brought(Mishap::AnswerLost);
            "answer lost"
        }
        82..86 => {
            brought(Mishap::CutMidBody);
            "cut mid-body"
        }
        86..90 => {
            brought(Mishap::RequestLost);
            "request lost"
        }
        90..94 => {
            brought(Mishap::Status([500, 502, 503, 504][chance.below(4) as usize]));
            "5xx"
        }
        94..97 => {
            brought(Mishap::StatusAfter(504));
            "5xx after the commit"
        }
        97..99 => {
            faults.next(Mishap::TooMany { retry_after: 1 }, 1);
            "429"
        }
        // Two at once: the service dies while the fate of its last request is unknown.
        _ => {
            brought(Mishap::AnswerLost);
            rig.kill9().await;
            rig.start();
            "answer lost and kill -9"
        }
    }
}

/// Waits, for a while, until the target holds what is committed now; the next crash may well come before.
async fn catches_up(rig: &Rig, at_most: Duration) {
    const END: &str = "select (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let (Ok(source), Ok(target)) = (rig.pair.source.connect().await, rig.pair.supabase.cluster.connect().await) else {
        return;
    };
    let Ok(end) = source.query_one(END, &[]).await.map(|row| row.get::<_, i64>(0)) else { return };
    let deadline = Instant::now() + at_most;
    while Instant::now() < deadline {
        match target.query_one("select coalesce(max(major), 0) from lockstep.checkpoint", &[]).await {
            Ok(row) if row.get::<_, i64>(0) >= end => return,
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(_) => return,
        }
    }
}

/// How long the log of changes was when the last first copy had just ended.
async fn copies_done(rig: &Rig) -> Option<i64> {
    let sql = format!(
        "select max(seq) from lab.change where (select count(*) filter (where done) = {} from lockstep.copy)",
        ALL.len()
    );
    rig.pair.supabase.cluster.value(&sql).await.ok()?.parse().ok()
}

/// The target's own log against the promise. While a table is copied, a range may bring a row that the stream has
/// brought already, as it is: until `copied_at` a version may come again, but never an older one.
async fn check_log(rig: &Rig, copied_at: i64) {
    let target = &rig.pair.supabase.cluster;
    let late = format!(
        "select format('%s %s: %s %s after version %s (seq %s)', table_name, key, op, version, before, seq) from (
           select *, lag(version) over (partition by table_name, key order by seq) as before
           from (select *, (row->>'version')::bigint as version from lab.change where op <> 'DELETE') c
         ) c where version < before or (version = before and seq > {copied_at}) order by seq limit 20"
    );
    assert_eq!(target.rows(&late).await.unwrap(), [] as [Vec<Option<String>>; 0], "came twice or late");
    // Rows of the ledger are never changed: each is one insert, and nothing else.
    let ledger = format!(
        "select format('ledger %s: %s', key, string_agg(op || ' ' || seq, ', ' order by seq)) from lab.change
         where table_name = 'ledger' group by key
         having count(*) filter (where op = 'INSERT') <> 1 or bool_or(op = 'DELETE')
           or count(*) filter (where seq > {copied_at}) > 1
           or (count(*) > 1 and max(seq) > {copied_at}) limit 20"
    );
    assert_eq!(target.rows(&ledger).await.unwrap(), [] as [Vec<Option<String>>; 0], "not exactly once");
    let seen = target.value("select count(distinct key) from lab.change where table_name = 'ledger'").await.unwrap();
    assert_eq!(seen, rig.pair.source.value("select count(*) from ledger").await.unwrap(), "rows of the ledger");
    // The last that was heard of every row is the row.
    for table in ALL {
        let key = if table == "item" { "jsonb_build_array(t.a, t.b)" } else { "jsonb_build_array(t.id)" };
        let stale = format!(
            "select count(*) from {table} t left join (
               select distinct on (key) key, op, (row->>'version')::bigint as version
               from lab.change where table_name = '{table}' order by key, seq desc) c on c.key = {key}
             where c.version is distinct from t.version or c.op = 'DELETE'"
        );
        assert_eq!(target.value(&stale).await.unwrap(), "0", "{table} differs from its own log");
    }
}

#[derive(Default)]
struct Traffic {
    stop: AtomicBool,
    committed: AtomicU64,
}

pub struct Address {
    pub sockets: std::path::PathBuf,
    pub port: u16,
}

impl Address {
    pub async fn connect(&self) -> Option<tokio_postgres::Client> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.sockets).port(self.port).user("postgres").dbname("postgres");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }
}

/// One writer: a change forty times a second, in its own order, whatever becomes of it.
async fn write(address: Address, mut chance: Seeded, writer: u64, traffic: Arc<Traffic>) {
    let mut pace = tokio::time::interval(Duration::from_millis(25));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut client = None;
    while !traffic.stop.load(Relaxed) {
        pace.tick().await;
        let Some(connected) = &client else {
            client = address.connect().await;
            continue;
        };
        let sql = change(&mut chance, writer);
        match connected.batch_execute(&sql).await {
            Ok(()) => drop(traffic.committed.fetch_add(1, Relaxed)),
            // A key that is taken, a deadlock: the source refused it, so nothing of it may arrive.
            Err(error) if error.as_db_error().is_some() => drop(connected.batch_execute("rollback").await),
            Err(_) => client = None,
        }
    }
}

/// One transaction of the mix.
fn change(chance: &mut Seeded, writer: u64) -> String {
    let (from, to) = (1 + chance.below(500), 1 + chance.below(500));
    let (a, b) = (chance.below(6000), chance.below(4));
    let doc = 1 + chance.below(1200);
    let who = 1 + writer;
    const V: &str = "version = nextval('version')";
    match chance.below(100) {
        0..18 => format!("insert into ledger (who) select {who} from generate_series(1, {})", 1 + chance.below(5)),
        18..36 => format!(
            "begin; update account set balance = balance - 1, {V} where id = {from};
             update account set balance = balance + 1, {V} where id = {to}; insert into ledger (who) values ({who}); commit"
        ),
        36..48 => format!("update doc set small = small + 1, {V} where id between {doc} and {doc} + 3"),
        48..52 => format!("update doc set big = {BIG}, {V} where id = {doc}"),
        52..55 => format!("update doc set id = id + 2000, small = -1, {V} where id = {doc}"),
        55..58 => format!(
            "begin; delete from doc where id = {doc}; insert into doc values ({doc}, default, 1, {BIG}); commit"
        ),
        58..66 => format!(
            "insert into item values ({a}, 'b{b}', default, 'new')
             on conflict (a, b) do update set body = 'again', {V}"
        ),
        66..70 => format!("delete from item where a = {a}"),
        70..76 => format!("update item set a = {from} + 6000, {V} where a = {a} and b = 'b{b}'"),
        76..80 => format!("update item set body = body || '!', {V} where a between {a} and {a} + 3"),
        80..86 => format!(
            "begin; insert into ledger (who) values ({who}); savepoint one; delete from item where a = {a};
             insert into ledger (who) values (-1); rollback to one; savepoint two;
             update account set {V} where id = {from}; release two; insert into ledger (who) values ({who}); commit"
        ),
        86..91 => format!(
            "begin; insert into ledger (who) values (-2); delete from account where id = {from};
             update doc set big = 'gone' where id = {doc}; truncate scratch; rollback"
        ),
        91..97 => format!(
            "insert into scratch values ({from}, default, 's') on conflict (id) do update set body = 't', {V}"
        ),
        97 => "begin; truncate scratch; insert into scratch select i, nextval('version'), 'after' from \
               generate_series(1, 20) i; commit"
            .to_owned(),
        98 => format!("insert into ledger (who) select {who} from generate_series(1, 300)"),
        _ => format!("begin; delete from account where id = {from}; insert into account values ({from}, default, 7); commit"),
    }
}
