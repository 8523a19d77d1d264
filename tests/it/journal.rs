//! Capture by triggers: nothing is lost, nothing comes twice, and all of it in an order that was possible.
//!
//! What carries the order is in SQL (sql/source/journal.sql), so a test takes it out and sees what then goes wrong.

use lockstep::lab::{PairOptions, logged};
use tokio_postgres::Client;

use super::rig::{Rig, public, until};

const LEDGER: &str = "create table ledger (id int primary key, body text not null default '')";

/// A service that reads the journal of an empty ledger, at a source that allows no slot.
async fn streaming() -> Rig {
    let mut rig = by_journal("replica").await;
    rig.start();
    rig.settled().await;
    rig
}

async fn by_journal(wal_level: &str) -> Rig {
    let rig = rig(wal_level, LEDGER, "journal").await;
    rig.pair.log_changes(&public(&["ledger"])).await.unwrap();
    rig
}

/// Both sides, at a source of this `wal_level`.
pub async fn rig(wal_level: &str, schema: &str, way: &str) -> Rig {
    let mut options = PairOptions::default();
    options.source = options.source.set("wal_level", wal_level);
    let mut rig = Rig::with(options, schema).await;
    capture_by(&mut rig, way);
    rig
}

pub fn capture_by(rig: &mut Rig, way: &str) {
    rig.env.retain(|(name, _)| name != "LOCKSTEP_CAPTURE");
    rig.env.push(("LOCKSTEP_CAPTURE".into(), way.into()));
}

pub async fn source(rig: &Rig, sql: &str) {
    rig.pair.source.execute(sql).await.unwrap();
}

pub async fn session(rig: &Rig) -> Client {
    rig.pair.source.connect().await.unwrap()
}

pub async fn target(rig: &Rig, sql: &str) -> String {
    rig.pair.supabase.cluster.value(sql).await.unwrap()
}

/// Takes something out of one of the journal's functions.
async fn mutate(rig: &Rig, function: &str, from: &str, to: &str) {
    let read = format!("select pg_get_functiondef('lockstep.{function}'::regproc)");
    let sql = rig.pair.source.value(&read).await.unwrap();
    assert!(sql.contains(from), "{sql}");
    source(rig, &sql.replace(from, to)).await;
}

const HORIZON: &str = "passed := pg_snapshot_xmin(pg_current_snapshot()) >= xid;";

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_began_early_and_commits_late_is_not_lost_and_without_the_horizon_it_is() {
    let mut rig = streaming().await;
    for (round, keeps) in [(1, true), (2, false)] {
        let (early, late) = (10 * round, 10 * round + 1);
        let open = session(&rig).await;
        open.batch_execute(&format!("begin; insert into ledger values ({early})")).await.unwrap();
        source(&rig, &format!("insert into ledger values ({late})")).await;
        if keeps {
            // It stands behind one that is open: it waits, and that is said.
            until("the one that holds it up is named", async || {
                rig.status()
                    .await
                    .is_some_and(|status| status["last_error"].to_string().contains("holds the journal up"))
            })
            .await;
            assert_eq!(target(&rig, &format!("select count(*) from ledger where id = {late}")).await, "0");
        } else {
            let there = format!("select count(*) from ledger where id = {late}");
            until("the late one came alone", async || target(&rig, &there).await == "1").await;
        }
        open.batch_execute("commit").await.unwrap();
        rig.settled().await;
        let found = target(&rig, &format!("select count(*) from ledger where id in ({early}, {late})")).await;
        assert_eq!(found, if keeps { "2" } else { "1" }, "{}", rig.tail());
        if keeps {
            mutate(&rig, "journal_fence", HORIZON, "passed := true;").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_a_row_last_wins_whatever_its_number_and_cut_by_number_it_would_not() {
    let mut rig = streaming().await;
    assert_eq!(written_against_the_numbers(&mut rig, 1).await, "first", "{}", rig.tail());
    let by_number = "array_agg(s.xid::text order by s.xid)";
    mutate(&rig, "journal_window", "array_agg(s.xid::text order by s.ends)", by_number).await;
    // Where the reader looks between the two, it does not meet both at once.
    for row in 2..50 {
        if written_against_the_numbers(&mut rig, row).await == "second" {
            return;
        }
    }
    panic!("cut by number it is as right");
}

/// Two transactions write a row in the opposite order of their numbers: what the target has of it in the end.
async fn written_against_the_numbers(rig: &mut Rig, row: u32) -> String {
    source(rig, &format!("insert into ledger values ({row})")).await;
    let (first, second) = (session(rig).await, session(rig).await);
    // The first takes the smaller number, and writes the row after the second has committed.
    first.batch_execute(&format!("begin; insert into ledger values ({})", row + 100)).await.unwrap();
    second.batch_execute(&format!("update ledger set body = 'second' where id = {row}")).await.unwrap();
    first.batch_execute(&format!("update ledger set body = 'first' where id = {row}; commit")).await.unwrap();
    rig.settled().await;
    target(rig, &format!("select body from ledger where id = {row}")).await
}

/// A row that gets into the journal without a bell.
const SILENT: &str = "insert into lockstep.journal (xid, lsn, n, shape, op, line, at) \
     select pg_current_xact_id(), pg_logical_emit_message(false, 'test', ''), 0, id, 'i', '(7,silent)', now() \
     from lockstep.journal_shape";

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_bell_and_a_killed_listener_cost_a_moment_and_no_change() {
    let mut rig = streaming().await;
    source(&rig, SILENT).await;
    until("it is found without a bell", async || target(&rig, "select count(*) from ledger").await == "1").await;
    let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name like 'lockstep%'";
    for n in 0..3 {
        source(&rig, &format!("insert into ledger select g from generate_series({n}00 + 10, {n}00 + 30) g")).await;
        until("it is there, and killed", async || rig.pair.source.value(kill).await.unwrap() != "0").await;
        source(&rig, &format!("update ledger set body = 'x' where id between {n}00 + 10 and {n}00 + 20")).await;
    }
    rig.settled().await;
    source(&rig, "insert into ledger values (7, 'silent')").await; // the row that only the journal knew
    rig.settled().await;
    rig.assert_equal(&public(&["ledger"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_traffic_it_brings_every_change_once_and_forgets_what_is_confirmed() {
    let mut rig = streaming().await;
    for n in 0..3 {
        for i in 0..20 {
            let id = n * 100 + i;
            source(&rig, &format!("insert into ledger values ({id}); update ledger set body = 'x' where id = {id}"))
                .await;
        }
        rig.kill9().await;
        source(&rig, &format!("insert into ledger values ({n}50)")).await;
        rig.start();
    }
    rig.settled().await;
    rig.assert_equal(&public(&["ledger"])).await;
    let client = rig.pair.supabase.cluster.connect().await.unwrap();
    let mut log: Vec<(String, String)> =
        logged(&client).await.unwrap().into_iter().map(|change| (change.key, change.op)).collect();
    let all = log.len();
    log.sort();
    log.dedup();
    assert_eq!(log.len(), all, "a change came twice");
    until("what is confirmed is forgotten", async || {
        rig.pair.source.value("select count(*) from lockstep.journal where op <> 'm'").await.unwrap() == "0"
    })
    .await;
    // The missing half of a large transaction is gone: nothing can bring it but a comparison.
    rig.terminate().await;
    rig.pair
        .supabase
        .execute("update lockstep.checkpoint set minor = 5; delete from ledger where id < 5")
        .await
        .unwrap();
    rig.start();
    rig.settled().await;
    rig.assert_equal(&public(&["ledger"])).await;
    assert_eq!(rig.metric("lockstep_recoveries_total{reason=\"journal_gone\"}").await, 1.0, "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_changes_from_slot_to_journal_and_back_and_loses_nothing() {
    let mut rig = by_journal("logical").await;
    let mut id = 0;
    for way in ["wal", "journal", "wal"] {
        capture_by(&mut rig, way);
        rig.start();
        for _ in 0..10 {
            id += 1;
            source(
                &rig,
                &format!("insert into ledger values ({id}); update ledger set body = 'y' where id = {id} - 1"),
            )
            .await;
        }
        rig.settled().await;
        rig.assert_equal(&public(&["ledger"])).await;
        let left = "select (select count(*) from pg_replication_slots) || ' ' || \
                    (select count(*) from pg_trigger where tgname like 'lockstep_journal%')";
        let expected = if way == "wal" { "1 0" } else { "0 4" };
        assert_eq!(rig.pair.source.value(left).await.unwrap(), expected, "{way}\n{}", rig.tail());
        rig.terminate().await;
        // Nobody reads now, and whoever reads next brings it.
        source(&rig, &format!("delete from ledger where id = {id} - 5; insert into ledger values ({id} + 1000)")).await;
    }
    // The journal of another Lockstep is none of its business, and may be closed to it.
    source(
        &rig,
        "create role walker login replication password 'walker'; grant select on ledger to walker;
         grant usage on schema lockstep to walker; grant all on all tables in schema lockstep to walker;
         create table lockstep.journal_state (one int)",
    )
    .await;
    let other = session(&rig).await;
    other.batch_execute("select pg_advisory_lock(hashtext('lockstep journal'), 0)").await.unwrap();
    rig.source_url = rig.pair.source.url_as("walker", "walker", "postgres");
    std::fs::remove_file(rig.log()).unwrap();
    rig.start();
    rig.settled().await;
    rig.assert_equal(&public(&["ledger"])).await;
    let log = std::fs::read_to_string(rig.log()).unwrap();
    assert!(!log.contains("the source still has"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_makes_the_journal_for_a_role_that_may_not_and_teardown_takes_all_of_it_away() {
    let mut rig = by_journal("replica").await;
    source(&rig, "create role reader login password 'reader'").await;
    let setup = ["setup", "source", "--capture", "journal", "--role", "reader"];
    let (code, printed, errors) = rig.verb(&[&setup[..], &["--print"]].concat()).await;
    assert!(code == Some(0) && printed.contains("lockstep_journal_insert"), "{printed}{errors}");
    let (code, _, errors) = rig.verb(&[&setup[..], &["--apply"]].concat()).await;
    assert_eq!(code, Some(0), "{errors}");
    let (_, again, _) = rig.verb(&[&setup[..], &["--apply"]].concat()).await;
    assert!(!again.contains("create trigger"), "{again}");
    let owner = std::mem::replace(&mut rig.source_url, rig.pair.source.url_as("reader", "reader", "postgres"));
    rig.env.push(("LOCKSTEP_CREATE".into(), "false".into()));
    rig.start();
    source(&rig, "insert into ledger select g from generate_series(1, 100) g; delete from ledger where id > 90").await;
    rig.settled().await;
    rig.assert_equal(&public(&["ledger"])).await;
    let teardown = ["setup", "teardown", "--apply", "--source-url", &owner];
    let (code, _, errors) = rig.verb(&teardown).await;
    assert!(code != Some(0) && errors.contains("the journal is read by"), "{errors}");
    rig.terminate().await;
    let (code, _, errors) = rig.verb(&teardown).await;
    assert_eq!(code, Some(0), "{errors}");
    let left = "select count(*) from pg_trigger where tgname like 'lockstep%'";
    assert_eq!(rig.pair.source.value(left).await.unwrap(), "0");
    assert_eq!(rig.pair.source.value("select to_regnamespace('lockstep') is null").await.unwrap(), "t");
    source(&rig, "insert into ledger values (1000)").await;
}
