//! The `tables` way after a crash: the target holds more than the checkpoint says, and what it holds already is written
//! again from there. However far it had got, both sides end equal.
//!
//! A target that is ahead is made by running the same statements on it: that is what an earlier start would have left.

use std::sync::atomic::{AtomicU64, Ordering};

use lockstep::lab::{PairOptions, Seeded};

use super::rig::{Rig, public, until};
use super::tables::bare;

/// What replaying can go wrong with: cascades over two levels, a self-reference, unique values that change hands, keys
/// that change, large values that the stream leaves out.
const SCHEMA: &str = "
    create table p (id int primary key, u text unique, big text);
    create table c (id int primary key, p int references p on delete cascade on update cascade, u text unique, big text);
    create table g (id int primary key, c int not null references c on delete cascade on update cascade, n int);
    create table s (id int primary key, up int references s on delete set null on update cascade, n int);
    create table filler (id int primary key, body text);
    alter table p alter big set storage external; alter table c alter big set storage external;
";
const ALL: [&str; 5] = ["p", "c", "g", "s", "filler"];

const FILL: &str = "
    insert into p select i, 'u' || i, repeat('p' || i, 2000) from generate_series(1, 8) i;
    insert into c select i, 1 + i % 8, 'u' || i, repeat('c' || i, 2000) from generate_series(1, 16) i;
    insert into g select i, 1 + i % 16, 0 from generate_series(1, 32) i;
    insert into s select i, nullif(i - 1, 0), 0 from generate_series(1, 8) i;
";

/// Stops the service, runs `sql` at the source and its first `ahead` statements in the target too, and starts again.
async fn ahead(rig: &mut Rig, sql: &[String], ahead: usize) {
    rig.kill9().await;
    for (n, one) in sql.iter().enumerate() {
        // Large enough to fill a small batch.
        static FILLED: AtomicU64 = AtomicU64::new(0);
        let filler = FILLED.fetch_add(1, Ordering::Relaxed);
        let one = &format!("{one}; insert into filler values ({filler}, repeat('x', 20000))");
        rig.pair.source.execute(one).await.unwrap_or_else(|error| panic!("{one}: {error}"));
        if n < ahead {
            rig.pair.supabase.cluster.execute(one).await.unwrap_or_else(|error| panic!("{one}: {error}"));
        }
    }
    rig.start();
    rig.settled().await;
    let differences = rig.pair.differences(&public(&ALL)).await.unwrap();
    let sql = sql.join(";\n");
    assert!(differences.is_empty(), "{ahead} statements ahead in\n{sql}\n{}\n{}", differences.join("\n"), rig.tail());
}

async fn streaming() -> Rig {
    let mut rig = bare(SCHEMA).await;
    rig.pair.source.execute(FILL).await.unwrap();
    rig.start();
    rig.settled().await;
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_target_had_already_it_ends_equal() {
    let mut rig = streaming().await;
    // Every transaction leaves in a batch of its own: what is folded away harms nobody.
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[apply]\nmax_batch_bytes = \"16 KiB\"\n").unwrap();
    for story in [
        // A unique value goes from one row to another.
        &[
            "insert into p values (100, 'free', 'x')",
            "update p set u = 'other' where id = 100",
            "insert into p values (101, 'free', 'y')",
        ][..],
        // .. and all around.
        &[
            "update p set u = 'tmp' where id = 1",
            "update p set u = 'u1' where id = 2",
            "update p set u = 'u2' where id = 1",
        ],
        // A key changes, and the old one comes again.
        &[
            "insert into p values (200, 'a', 'x')",
            "update p set id = 201 where id = 200",
            "insert into p values (200, 'b', 'y')",
        ],
        // A key changes with a large value that the stream leaves out.
        &[
            "update c set id = 301 where id = 3",
            "update c set id = 302 where id = 301",
            "update c set u = 'moved' where id = 302",
        ],
        // A row takes the key of one that has gone, with a large value that the stream leaves out.
        &["delete from p where id = 4", "update p set id = 4 where id = 8", "update p set u = 'here' where id = 4"],
        // A row goes and comes again, and a row of others that nobody touches hangs on one that was led to it meanwhile.
        &[
            "insert into p values (400, 'd', 'x'), (401, 'e', 'y')",
            "delete from p where id = 400",
            "insert into p values (400, 'f', 'z')",
            "update c set p = 400 where id = 5",
        ],
        // Emptied and filled again.
        &[
            "truncate s",
            "insert into s values (1, null, 1), (2, 1, 1)",
            "update s set up = 2 where id = 1",
            "delete from s where id = 2",
        ],
        // A parent is there only for a while.
        &[
            "insert into p values (500, 'g', 'x')",
            "insert into c values (500, 500, 'h', 'y')",
            "update c set p = null where id = 500",
            "delete from p where id = 500",
        ],
    ] {
        let sql: Vec<String> = story.iter().map(|&one| one.to_owned()).collect();
        ahead(&mut rig, &sql, sql.len()).await;
    }
    // The same where the target has none of it: what is kept back then must not be taken for the row that comes.
    let story =
        ["delete from p where id = 5", "update p set id = 5 where id = 6", "update p set u = 'there' where id = 5"];
    ahead(&mut rig, &story.map(str::to_owned), 0).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

/// A statement that both sides take; some touch nothing.
fn statement(chance: &mut Seeded) -> String {
    let mut n = |below: u64| chance.below(below);
    let (key, other, value) = (1 + n(24), 1 + n(24), n(12));
    let free = |table: &str| {
        format!("(select min(i) from generate_series(1, 60) i where not exists (select from {table} where id = i))")
    };
    let unused = |table: &str| format!("not exists (select from {table} where u = 'u{value}')");
    match n(16) {
        0 => format!(
            "insert into p select {}, case when {} then 'u{value}' end, repeat('n', 5000)",
            free("p"),
            unused("p")
        ),
        1 => format!(
            "insert into c select {}, (select max(id) from p where id <= {key}), case when {} then 'u{value}' end, repeat('m', 5000)",
            free("c"),
            unused("c")
        ),
        2 => format!("insert into g select {}, id, {value} from c where id = {key}", free("g")),
        3 => format!("insert into s select {}, (select max(id) from s where id <= {key}), {value}", free("s")),
        4 => format!("update p set u = null where u = 'u{value}'; update p set u = 'u{value}' where id = {key}"),
        5 => format!("update c set u = null where u = 'u{value}'; update c set u = 'u{value}' where id = {key}"),
        6 => format!("update c set p = (select max(id) from p where id <= {other}) where id = {key}"),
        7 => format!(
            "update g set c = (select max(id) from c where id <= {other}) where id = {key} and exists (select from c where id <= {other})"
        ),
        8 => format!("update s set up = (select max(id) from s where id < {other}), n = {value} where id = {key}"),
        9 => format!("delete from p where id = {key}"),
        10 => format!("delete from c where id = {key}"),
        11 => format!("delete from s where id = {key}; delete from g where id = {other}"),
        12 => format!("update p set id = {} where id = {key}", free("p")),
        13 => format!("update c set id = {} where id = {key}", free("c")),
        14 => format!(
            "update p set big = repeat('{value}', 6000) where id = {key}; update c set big = '{value}' where id = {other}"
        ),
        _ if value == 0 => "truncate g, s".to_owned(),
        _ => format!("update s set id = {} where id = {key}", free("s")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_statements_written_again_from_any_point_end_equal() {
    let given = std::env::var("LOCKSTEP_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 % 1_000_000);
    println!("LOCKSTEP_SEED={seed}");
    let mut chance = Seeded::new(seed);
    let mut rig = streaming().await;
    for _ in 0..15 {
        let sql: Vec<String> = (0..10).map(|_| statement(&mut chance)).collect();
        let done = chance.below(11) as usize;
        ahead(&mut rig, &sql, done).await;
        // And in passing, with nothing to catch up with.
        let sql: Vec<String> = (0..10).map(|_| statement(&mut chance)).collect();
        for one in &sql {
            rig.pair.source.execute(one).await.unwrap();
        }
        rig.settled().await;
        let differences = rig.pair.differences(&public(&ALL)).await.unwrap();
        assert!(differences.is_empty(), "{}\n{}\n{}", sql.join(";\n"), differences.join("\n"), rig.tail());
    }
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_everything_it_ends_equal() {
    let mut rig = bare(SCHEMA).await;
    rig.pair.source.execute(FILL).await.unwrap();
    rig.start();
    let mut chance = Seeded::new(7);
    for _ in 0..12 {
        for _ in 0..25 {
            rig.pair.source.execute(&statement(&mut chance)).await.unwrap();
        }
        rig.kill9().await;
        rig.start();
    }
    rig.settled().await;
    rig.assert_equal(&public(&ALL)).await;
}

/// What is read and not yet in the target must not be forgotten by the source: nothing else remembers it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_and_not_written_when_it_was_killed_is_sent_again() {
    let mut options = PairOptions::default();
    // The service reports to the source at least three times in this span.
    options.source = options.source.set("wal_sender_timeout", "3s");
    let mut rig = Rig::bare(options, "create table t (id int primary key)").await;
    rig.start();
    rig.settled().await;
    rig.pair.supabase.faults().down().await;
    rig.pair.source.execute("insert into t select generate_series(1, 3)").await.unwrap();
    rig.pair.source.execute("insert into t select generate_series(4, 10)").await.unwrap();
    until("the service is in trouble", async || rig.status().await.is_some_and(|status| status["state"] == "waiting"))
        .await;
    rig.has_read().await;
    // Two more reports: whatever it wanted to confirm, it has.
    const REPORTED: &str = "select coalesce(max(reply_time)::text, '') from pg_stat_replication";
    for _ in 0..2 {
        let last = rig.pair.source.value(REPORTED).await.unwrap();
        until("the service reports", async || rig.pair.source.value(REPORTED).await.unwrap() != last).await;
    }
    rig.kill9().await;
    rig.pair.supabase.faults().up().await;
    rig.start();
    rig.settled().await;
    rig.assert_equal(&public(&["t"])).await;
}

/// Between the two a start must not take the slot for another way's.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_its_slot_and_its_first_note_it_goes_on_the_same_way() {
    let mut rig = streaming().await;
    rig.terminate().await;
    // As before the first start, but that the note is held up by a lock.
    let emptied = ALL.join(", ");
    rig.pair.supabase.cluster.execute(&format!("truncate {emptied}")).await.unwrap();
    const HELD: &str = "select pg_drop_replication_slot('lockstep');
        truncate lockstep.route, lockstep.route_copy;
        create function held() returns trigger language plpgsql as
          'begin if new.source <> ''{}'' then perform pg_advisory_lock(7); end if; return new; end';
        create trigger held before insert or update on lockstep.route for each row execute function held()";
    rig.pair.source.execute(HELD).await.unwrap();
    let holder = rig.pair.source.connect().await.unwrap();
    holder.batch_execute("select pg_advisory_lock(7)").await.unwrap();
    rig.start();
    const WAITS: &str = "select count(*) from pg_locks where locktype = 'advisory' and not granted and objid = 7";
    until("it is held up", async || rig.pair.source.value(WAITS).await.unwrap() == "1").await;
    assert_eq!(rig.pair.source.value("select count(*) from pg_replication_slots").await.unwrap(), "1");
    rig.kill9().await;
    const END: &str = "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and not granted";
    rig.pair.source.execute(END).await.unwrap();
    until("nobody waits", async || rig.pair.source.value(WAITS).await.unwrap() == "0").await;
    rig.pair.source.execute("drop trigger held on lockstep.route").await.unwrap();
    rig.start();
    rig.settled().await;
    rig.assert_equal(&public(&ALL)).await;
}
