//! The table that says where each table stands: made or adopted, and true at any moment, whatever is killed meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use lockstep::lab::{Mishap, Owner, PairOptions, Seeded};

use super::rig::{Rig, public, until};

const TABLES: &str = "
    create table agents (id int primary key, name text);
    create table tasks (id int primary key, agent int);
    create schema other;
    create table other.things (id int primary key);
";

/// With the table of sync states, which other tests do without.
async fn rig(sql: &str) -> Rig {
    with(PairOptions::default(), sql).await
}

async fn with(options: PairOptions, sql: &str) -> Rig {
    let mut rig = Rig::with(options, sql).await;
    rig.env.clear();
    rig
}

/// Status of every row, by name.
pub async fn states(rig: &Rig) -> Vec<(String, String)> {
    let rows = rig.pair.source.rows("select table_name, sync_status from supabase_sync_state order by 1").await;
    let text = |cell: &Option<String>| cell.clone().unwrap_or_default();
    rows.unwrap_or_default().iter().map(|row| (text(&row[0]), text(&row[1]))).collect()
}

pub async fn all_are(rig: &Rig, status: &str) {
    until(&format!("every sync state is {status}"), async || {
        let states = states(rig).await;
        !states.is_empty() && states.iter().all(|(_, is)| is == status)
    })
    .await;
}

async fn cell(rig: &Rig, column: &str, table: &str) -> String {
    let sql = format!("select ({column})::text from supabase_sync_state where table_name = '{table}'");
    rig.pair.source.value(&sql).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_sync_states_is_made_filled_and_kept_until_the_service_says_goodbye() {
    let mut rig = rig(TABLES).await;
    let settings = "[tables]\nschemas = [\"public\", \"other\"]\n";
    std::fs::write(rig.dir.path().join("lockstep.toml"), settings).unwrap();
    rig.pair.supabase.execute("grant all on other.things to service_role").await.unwrap();
    rig.pair.source.execute("insert into agents select i, 'a' from generate_series(1, 24) i").await.unwrap();
    rig.start();
    rig.settled().await;
    all_are(&rig, "completed").await;
    let names: Vec<String> = states(&rig).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["agents", "other.things", "tasks"]);
    let types = "select string_agg(column_name || ' ' || udt_name, ', ' order by ordinal_position)
        from information_schema.columns where table_name = 'supabase_sync_state'";
    assert_eq!(
        rig.pair.source.value(types).await.unwrap(),
        "id uuid, table_name varchar, last_sync_at timestamptz, last_sync_direction varchar, records_synced int4, \
         sync_status varchar, error_message text, created_at timestamptz, updated_at timestamptz"
    );
    until("its rows are counted", async || cell(&rig, "records_synced", "agents").await == "24").await;
    assert_eq!(cell(&rig, "last_sync_direction", "agents").await, "to_supabase");
    let before = rig.pair.source.value("select clock_timestamp()").await.unwrap();
    rig.pair.source.execute("update agents set name = 'b' where id < 11").await.unwrap();
    let moved = format!("last_sync_at > '{before}' and records_synced = 34");
    until("it moves on", async || cell(&rig, &moved, "agents").await == "true").await;
    // Its own writes are not replicated, and do not keep the stream busy.
    let target = &rig.pair.supabase.cluster;
    assert_eq!(target.value("select to_regclass('supabase_sync_state')").await.unwrap(), "");

    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
    assert!(states(&rig).await.iter().all(|(_, status)| status == "pending"), "{:?}", states(&rig).await);
    assert_eq!(cell(&rig, "error_message", "agents").await, "Lockstep is not running");
    rig.start();
    all_are(&rig, "completed").await;
    assert_eq!(cell(&rig, "records_synced", "agents").await, "34", "it goes on from what was there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_an_earlier_system_made_with_text_columns_is_adopted_with_its_six_rows() {
    let mut rig = rig(TABLES).await;
    let old = "create table supabase_sync_state (id text primary key default gen_random_uuid()::text, table_name text,
            last_sync_at text, last_sync_direction text, records_synced text, sync_status text, error_message text,
            created_at text default now()::text, updated_at text, note varchar default 'mine');
        insert into supabase_sync_state (id, table_name, last_sync_at, records_synced, sync_status) values
            ('1', 'agents', '2025-01-01T00:00:00', '24', 'completed'), ('2', 'public.tasks', null, 'many', 'failed'),
            ('3', 'a2a_messages', '', null, 'completed'), ('4', 'sessions', null, '7', 'in_progress'),
            ('5', 'task_queue', null, '0', 'pending'), ('6', 'llm', null, '0', 'failed')";
    rig.pair.source.execute(old).await.unwrap();
    rig.pair.source.execute("insert into agents select i, 'a' from generate_series(1, 10) i").await.unwrap();
    rig.start();
    rig.settled().await;
    until("both tables are in step", async || {
        cell(&rig, "sync_status", "agents").await == "completed"
            && cell(&rig, "sync_status", "public.tasks").await == "completed"
            && cell(&rig, "records_synced", "agents").await == "34"
    })
    .await;
    let rows = rig.pair.source.rows(
        "select id, table_name, sync_status, coalesce(error_message, ''), coalesce(records_synced, ''), note
         from supabase_sync_state order by id",
    );
    let rows: Vec<String> =
        rows.await.unwrap().into_iter().map(|row| row.into_iter().flatten().collect::<Vec<_>>().join("|")).collect();
    assert_eq!(
        rows,
        [
            "1|agents|completed||34|mine",
            "2|public.tasks|completed||0|mine",
            "3|a2a_messages|pending|not replicated by Lockstep||mine",
            "4|sessions|pending|not replicated by Lockstep|7|mine",
            "5|task_queue|pending||0|mine",
            "6|llm|failed||0|mine",
        ]
    );
    assert_eq!(cell(&rig, "(last_sync_at::timestamptz > now() - interval '1 minute')", "agents").await, "true");
    assert_eq!(cell(&rig, "last_sync_at", "a2a_messages").await, "", "of what is not ours nothing else is changed");
    // Whoever writes in our rows is overruled.
    rig.pair
        .source
        .execute("update supabase_sync_state set sync_status = 'failed' where table_name = 'agents'")
        .await
        .unwrap();
    until("the row is true again", async || cell(&rig, "sync_status", "agents").await == "completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_state_that_somebody_locks_holds_up_nothing() {
    let mut rig = rig(TABLES).await;
    rig.start();
    rig.settled().await;
    all_are(&rig, "completed").await;
    let other = rig.pair.source.connect().await.unwrap();
    // A transaction with the strongest lock has a number, so a journal would wait for its end.
    let mode = if rig.by_journal() { "exclusive" } else { "access exclusive" };
    other.batch_execute(&format!("begin; lock table supabase_sync_state in {mode} mode")).await.unwrap();
    rig.pair.source.execute("insert into agents select i, 'a' from generate_series(1, 100) i").await.unwrap();
    rig.settled().await;
    rig.assert_equal(&public(&["agents", "tasks"])).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
    rig.start();
    rig.settled().await;
    other.batch_execute("commit").await.unwrap();
    all_are(&rig, "completed").await;
}

/// What `completed` promises, checked from outside: all that had been committed before `last_sync_at` is in the target.
/// Rows of `ledger` are only added, those of `account` only updated.
async fn broken_promises(rig: &Rig) -> Option<Vec<String>> {
    let source = rig.pair.source.connect().await.ok()?;
    let target = rig.pair.supabase.cluster.connect().await.ok()?;
    let mut broken = Vec::new();
    let states = source
        .query("select table_name, last_sync_at::text from supabase_sync_state where sync_status = 'completed'", &[]);
    for row in states.await.ok()? {
        let (table, at): (String, Option<String>) = (row.get(0), row.get(1));
        let Some(at) = at else {
            broken.push(format!("{table} is completed, and no time is told"));
            continue;
        };
        let here =
            format!("select id::int8, version::int8 from {table} where pg_xact_commit_timestamp(xmin) <= '{at}'");
        let here = source.query(&here, &[]).await.ok()?;
        let ids: Vec<i64> = here.iter().map(|row| row.get(0)).collect();
        let versions: Vec<i64> = here.iter().map(|row| row.get(1)).collect();
        let lacking = format!(
            "select count(*) from unnest($1::int8[], $2::int8[]) here (id, version)
             left join {table} t on t.id = here.id where t.version is null or t.version < here.version"
        );
        let lacking: i64 = target.query_one(&lacking, &[&ids, &versions]).await.ok()?.get(0);
        if lacking > 0 {
            broken
                .push(format!("{table} is completed as of {at}, and the target lacks {lacking} of {} rows", ids.len()));
        }
    }
    Some(broken)
}

const CHAOS: &str = "
    create sequence version;
    create table ledger (id bigserial primary key, version bigint not null default nextval('version'), body text);
    create table account (id int primary key, version bigint not null default nextval('version'));
";

/// One bad thing.
async fn crash(rig: &mut Rig, chance: &mut Seeded) {
    let faults = rig.pair.supabase.faults().clone();
    match chance.below(100) {
        0..30 => {
            rig.kill9().await;
            // The source moves on while nobody is here.
            rig.pair.source.execute("insert into ledger (body) values ('alone')").await.unwrap();
            rig.start();
        }
        30..45 => {
            rig.pair.supabase.postgrest.kill9().await;
            rig.pair.supabase.postgrest.restart().await.unwrap();
        }
        45..65 => {
            rig.pair.supabase.cluster.kill9().await;
            rig.pair.supabase.cluster.start().await.unwrap();
        }
        65..75 => faults.next(Mishap::AnswerLost, 2),
        75..85 => faults.next(Mishap::Status(503), 3),
        85..92 => faults.next(Mishap::Slow(Duration::from_millis(700)), 2),
        _ => faults.cut().await,
    }
}

/// Its rows say as of when; and that must not be a moment at which the target lacked something.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_target_is_held_up_completed_is_said_of_no_later_time_and_then_no_more() {
    let mut options = PairOptions::default();
    options.source = options.source.set("track_commit_timestamp", "on");
    let mut rig = with(options, CHAOS).await;
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[http]\nin_step_within = \"3s\"\n").unwrap();
    rig.pair.source.execute("insert into ledger (body) values ('before')").await.unwrap();
    rig.start();
    all_are(&rig, "completed").await;
    let faults = rig.pair.supabase.faults().clone();
    faults.aim("rpc/lockstep_apply");
    faults.random(Mishap::Slow(Duration::from_secs(8)), 1.0, 1);
    rig.pair.source.execute("insert into ledger (body) values ('held up')").await.unwrap();
    // Rows are written again after five seconds at the latest: until then, and behind that.
    until("the table is not called completed any more", async || {
        let broken = broken_promises(&rig).await.unwrap_or_default();
        assert!(broken.is_empty(), "{}\n{}", broken.join("\n"), rig.tail());
        states(&rig).await.iter().any(|(table, status)| table == "ledger" && status != "completed")
    })
    .await;
    faults.clear();
    rig.settled().await;
    all_are(&rig, "completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polled_every_50_ms_while_everything_is_killed_no_table_is_called_completed_that_is_not() {
    let mut options = PairOptions::default();
    options.supabase.owner = Owner::SetReplicationRole;
    options.source = options.source.set("track_commit_timestamp", "on");
    let mut rig = with(options, CHAOS).await;
    let fill = "insert into account select i from generate_series(1, 300) i;
                insert into ledger (body) select 'before' from generate_series(1, 5000)";
    rig.pair.source.execute(fill).await.unwrap();
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[copy]\nchunk_bytes = \"32kB\"\n").unwrap();
    rig.pair.supabase.faults().aim("rpc/lockstep_");
    let writer = rig.pair.source.connect().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let writing = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        while !stopped.load(Relaxed) {
            pace.tick().await;
            let sql = "insert into ledger (body) select repeat('x', 50) from generate_series(1, 3);
                       update account set version = nextval('version') where id = 1 + (random() * 299)::int";
            writer.batch_execute(sql).await.unwrap();
        }
    });
    let seed = std::env::var("LOCKSTEP_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
    let mut chance = Seeded::new(seed);
    rig.start();
    let (mut polls, mut seen) = (0, 0);
    // LOCKSTEP_TEST_CRASHES for more.
    let crashes = std::env::var("LOCKSTEP_TEST_CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    for _ in 0..crashes {
        crash(&mut rig, &mut chance).await;
        // The next one comes when the state has had time to say something wrong.
        for _ in 0..30 {
            if let Some(broken) = broken_promises(&rig).await {
                polls += 1;
                assert!(broken.is_empty(), "seed {seed}: {}\n{}", broken.join("\n"), rig.tail());
                seen += usize::from(states(&rig).await.iter().any(|(_, status)| status == "completed"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!rig.has_ended(), "the service ended:\n{}", rig.tail());
    }
    println!("{polls} polls, {seen} of them with a table that was completed");
    assert!(
        polls > crashes * 10 && seen > crashes * 2,
        "hardly anything was looked at: {polls} polls, {seen} completed"
    );
    stop.store(true, Relaxed);
    writing.await.unwrap();
    rig.pair.supabase.faults().clear();
    rig.settled().await;
    all_are(&rig, "completed").await;
    rig.assert_equal(&public(&["ledger", "account"])).await;
}
