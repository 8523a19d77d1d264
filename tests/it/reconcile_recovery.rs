//! What is lost under a running service comes back by itself: a slot that was dropped, a target that was emptied, and
//! rows that should not be there.

use lockstep::lab::{logged, repeats};

use super::rig::{Rig, public, until};

const SCHEMA: &str = "create table a (id int primary key, n int not null, u int unique);
                      create table b (word text primary key, n int not null)";
const ROWS: &str = "insert into a select i, 0, i from generate_series(1, 5000) i;
                    insert into b select 'w' || i, 0 from generate_series(1, 5000) i";

/// The slot goes under a live service; meanwhile both sides change. Only what differs is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_dropped_under_the_service_is_made_anew_and_only_what_differs_is_written() {
    let mut rig = Rig::new(SCHEMA).await;
    rig.pair.source.execute(ROWS).await.unwrap();
    rig.env.push(("LOCKSTEP_LOOK_AGAIN".into(), "1s".into()));
    rig.start();
    rig.settled().await;
    rig.pair.log_changes(&public(&["a", "b"])).await.unwrap();
    // Whoever reads it is ended again and again, until it can be dropped.
    until("the slot is dropped", async || {
        let end = "select pg_terminate_backend(active_pid) from pg_replication_slots where active";
        rig.pair.source.execute(end).await.unwrap();
        rig.pair.source.execute("select pg_drop_replication_slot('lockstep')").await.is_ok()
    })
    .await;
    let source = "delete from a where id % 100 = 7; update a set n = 1 where id % 100 = 8;
                  insert into a select i, 1, i from generate_series(6001, 6050) i; delete from b where word = 'w9';
                  update b set n = 1 where word = 'w10'; update b set word = 'moved' where word = 'w11'";
    rig.pair.source.execute(source).await.unwrap();
    rig.pair
        .supabase
        .cluster
        .execute("insert into a values (-1, 1, -1); insert into b values ('strange', 1)")
        .await
        .unwrap();
    until("there is a slot again", async || {
        rig.pair.source.value("select count(*) from pg_replication_slots where active").await.unwrap() == "1"
    })
    .await;
    until("both sides are equal", async || rig.pair.differences(&public(&["a", "b"])).await.unwrap().is_empty()).await;
    rig.settled().await;
    let client = rig.pair.supabase.cluster.connect().await.unwrap();
    let writes = logged(&client).await.unwrap();
    println!("{} writes on the target", writes.len());
    // By hand 2, repaired 50 + 50 + 50 + 1 in a, and w9, w10, w11, moved, strange in b.
    assert_eq!(writes.len(), 2 + 151 + 5, "{:?}", writes.last());
    assert_eq!(repeats(&client).await.unwrap(), [""; 0]);
    let log = std::fs::read_to_string(rig.log()).unwrap();
    assert!(log.contains("recovering") && log.contains("compared and repaired"), "{log}");
    // And so does the history.
    let history = "select string_agg(table_name || ' ' || (result in ('equal', 'repaired')), ', ' order by table_name)
                   from lockstep.reconcile_run where why ~ '^recovery: the slot'";
    let told = rig.pair.source.value(history).await.unwrap();
    assert_eq!(told, "public.a true, public.b true");
}

/// The target is emptied, rows and checkpoint, as a project that was reset; one table is left behind with strange rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_emptied_is_filled_again_and_strange_rows_go() {
    let mut rig = Rig::new(SCHEMA).await;
    rig.pair.source.execute(ROWS).await.unwrap();
    rig.env.push(("LOCKSTEP_LOOK_AGAIN".into(), "1s".into()));
    rig.start();
    rig.settled().await;
    rig.pair
        .supabase
        .cluster
        .execute(
            "begin; truncate a; delete from b where word < 'w5'; insert into b values ('strange', 1);
             update lockstep.checkpoint set major = 1, minor = 0; commit",
        )
        .await
        .unwrap();
    rig.pair
        .source
        .execute("insert into a values (7000, 7, 7000); update b set n = 7 where word = 'w77'")
        .await
        .unwrap();
    until("both sides are equal", async || rig.pair.differences(&public(&["a", "b"])).await.unwrap().is_empty()).await;
    rig.settled().await;
    rig.assert_equal(&public(&["a", "b"])).await;
}
