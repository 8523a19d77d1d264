//! Each reason why a source cannot be read is one message that names the thing and its fix.

use super::*;

/// The fault as an operator reads it, in one line.
fn said<T: std::fmt::Debug>(result: Result<T, Fault>) -> String {
    result.unwrap_err().to_string()
}

fn assert_says(said: &str, words: &[&str]) {
    assert!(words.iter().all(|word| said.contains(word)), "{said:?} lacks one of {words:?}");
}

#[tokio::test]
async fn a_server_without_logical_wal_is_told_the_setting() {
    let cluster = Cluster::start(&["wal_level=replica"]).await;
    cluster.sql().await.batch_execute("create table t (id int primary key)").await.unwrap();
    let said = said(ensure(&cluster, &Settings::new(cluster.url()), &["t"]).await);
    assert_says(&said, &["wal_level is replica", "alter system set wal_level = logical", "restart"]);
    let made = cluster.sql().await.query_one("select count(*) from pg_publication", &[]).await.unwrap();
    assert_eq!(made.get::<_, i64>(0), 0, "half done");
}

#[tokio::test]
async fn a_role_without_a_right_is_told_the_grant() {
    let cluster = Cluster::start(&[]).await;
    let sql = cluster.sql().await;
    sql.batch_execute(r#"create table t (id int primary key); create role "Some one" login"#).await.unwrap();
    let settings = Settings::new(cluster.url_of("Some%20one", ""));
    let tables = [TableName::new("public", "t")];
    let want = slot::Want { slot: "lockstep", publication: "lockstep", tables: &tables, create: true };
    let client = lockstep::pg::connect(&settings.url, "test").await.unwrap();
    assert_says(&said(slot::ensure(&client, &settings.url, &want).await), &[r#"alter role "Some one" replication"#]);
    sql.batch_execute(r#"alter role "Some one" replication"#).await.unwrap();
    let refused = said(slot::ensure(&client, &settings.url, &want).await);
    assert_says(
        &refused,
        &["may not create publication lockstep", r#"create publication "lockstep" for table "public"."t""#],
    );
    sql.batch_execute("create publication lockstep").await.unwrap();
    let refused = said(slot::ensure(&client, &settings.url, &want).await);
    assert_says(&refused, &["which postgres owns", r#"alter publication "lockstep" "#]);
    let slots = sql.query_one("select count(*) from pg_replication_slots", &[]).await.unwrap();
    assert_eq!(slots.get::<_, i64>(0), 0, "half done");
}

#[tokio::test]
async fn a_slot_that_is_not_ours_to_use_is_named() {
    let cluster = Cluster::start(&["max_replication_slots=1"]).await;
    let (sql, settings, start) = source(&cluster).await;
    // In use.
    let route = Route::start(settings.clone(), start, 1 << 20);
    until(&sql, "select active from pg_replication_slots").await;
    let pid: i32 = sql.query_one("select active_pid from pg_replication_slots", &[]).await.unwrap().get(0);
    let used = ensure(&cluster, &settings, &["t"]).await.unwrap_err();
    assert!(matches!(used, Fault::Stop { .. }));
    assert_says(&used.to_string(), &["slot lockstep is in use", &format!("pid {pid} (lockstep)")]);
    let second = Route::start(settings.clone(), start, 1 << 20);
    assert_says(&said(second.task.await.unwrap()), &["slot lockstep is in use", &pid.to_string()]);
    route.kill().await;
    until(&sql, "select not active from pg_replication_slots").await;
    // None free.
    let other = Settings { slot: "second".into(), ..settings.clone() };
    let full = said(ensure(&cluster, &other, &["t"]).await);
    assert_says(&full, &["max_replication_slots", "pg_drop_replication_slot('lockstep')"]);
    // Publication gone, then the slot gone.
    sql.batch_execute("drop publication lockstep").await.unwrap();
    assert_says(&said(ensure(&cluster, &settings, &["t"]).await), &["publication lockstep was dropped"]);
    sql.batch_execute("select pg_drop_replication_slot('lockstep')").await.unwrap();
    let gone = Route::start(settings.clone(), start, 1 << 20);
    assert_says(&said(gone.task.await.unwrap()), &["no replication slot lockstep"]);
    // Another plugin, another database.
    sql.batch_execute("select pg_create_logical_replication_slot('lockstep', 'test_decoding')").await.unwrap();
    assert_says(&said(ensure(&cluster, &settings, &["t"]).await), &["another plugin (test_decoding)"]);
    sql.batch_execute("select pg_drop_replication_slot('lockstep')").await.unwrap();
    sql.batch_execute("create database shop").await.unwrap();
    let mut elsewhere = cluster.url();
    elsewhere.database = "shop".into();
    let shop = lockstep::pg::connect(&elsewhere, "test").await.unwrap();
    shop.batch_execute("select pg_create_logical_replication_slot('lockstep', 'pgoutput')").await.unwrap();
    assert_says(&said(ensure(&cluster, &settings, &["t"]).await), &["belongs to database shop"]);
}

#[tokio::test]
async fn a_slot_that_lost_its_wal_is_said_and_not_skipped() {
    let cluster = Cluster::start(&["max_slot_wal_keep_size=1MB", "min_wal_size=32MB", "max_wal_size=32MB"]).await;
    let (sql, settings, start) = source(&cluster).await;
    for _ in 0..4 {
        sql.batch_execute(
            "insert into other select 'x' from generate_series(1, 1000); select pg_switch_wal(); checkpoint",
        )
        .await
        .unwrap();
    }
    until(&sql, "select wal_status = 'lost' from pg_replication_slots").await;
    let words = ["slot lockstep is lost", "pg_drop_replication_slot('lockstep')"];
    assert_says(&said(ensure(&cluster, &settings, &["t"]).await), &words);
    let route = Route::start(settings, start, 1 << 20);
    let ended = route.task.await.unwrap();
    assert!(matches!(&ended, Err(Fault::Retry { cause }) if cause.contains(words[0])), "{ended:?}");
}

#[tokio::test]
async fn only_wanted_tables_with_an_identity_are_published() {
    let cluster = Cluster::start(&[]).await;
    let (sql, settings, _) = source(&cluster).await;
    sql.batch_execute(
        "create table u (id int primary key) partition by list (id); create table u1 partition of u for values in (1)",
    )
    .await
    .unwrap();
    assert_says(
        &said(ensure(&cluster, &settings, &["t", "other"]).await),
        &["other has no replica identity", "primary key"],
    );
    assert_says(&said(ensure(&cluster, &settings, &["t", "nothing"]).await), &["no table public.nothing"]);
    let again = ensure(&cluster, &settings, &["t", "u"]).await.unwrap();
    assert!(!again.created);
    let published = sql.query("select tablename::text from pg_publication_tables order by 1", &[]).await.unwrap();
    assert_eq!(published.iter().map(|row| row.get(0)).collect::<Vec<String>>(), ["t", "u"]);
    sql.batch_execute("update other set v = ''").await.unwrap();
    // With no leave to create, the statement is in the message.
    let tables = [TableName::new("public", "t")];
    let want = slot::Want { slot: "new", publication: "new", tables: &tables, create: false };
    let told = said(slot::ensure(&sql, &settings.url, &want).await);
    assert_says(&told, &["no publication new", r#"create publication "new" for table "public"."t""#]);
    let want = slot::Want { publication: "lockstep", ..want };
    let told = said(slot::ensure(&sql, &settings.url, &want).await);
    assert_says(&told, &["no replication slot new", "pg_create_logical_replication_slot('new', 'pgoutput'"]);
}

#[tokio::test]
async fn slot_creation_behind_an_open_transaction_says_what_it_waits_for() {
    let cluster = Cluster::start(&[]).await;
    let mut sql = cluster.sql().await;
    sql.batch_execute("create table t (id int primary key)").await.unwrap();
    let open = sql.transaction().await.unwrap();
    open.batch_execute("insert into t values (1)").await.unwrap();
    let settings = Settings::new(cluster.url());
    let waits = ensure(&cluster, &settings, &["t"]).await.unwrap_err();
    assert!(matches!(waits, Fault::Retry { .. }));
    assert_says(&waits.to_string(), &["slot lockstep can be created once", "the oldest is pid"]);
    open.commit().await.unwrap();
    assert!(ensure(&cluster, &settings, &["t"]).await.unwrap().created);
}

#[tokio::test]
async fn a_checkpoint_ahead_of_the_source_is_never_waited_for() {
    let cluster = Cluster::start(&[]).await;
    let (_sql, settings, start) = source(&cluster).await;
    let ahead = Position { major: start.major + (1 << 32), minor: 0 };
    let route = Route::start(settings, ahead, 1 << 20);
    let ended = route.task.await.unwrap();
    assert!(matches!(&ended, Err(Fault::Retry { cause }) if cause.contains("lies ahead of the source")), "{ended:?}");
}

#[tokio::test]
async fn a_source_that_cannot_be_reached_is_tried_again_and_a_wrong_name_is_not() {
    let mut cluster = Cluster::start(&[]).await;
    let mut wrong = cluster.url();
    wrong.database = "nowhere".into();
    let sql = lockstep::pg::connect(&wrong, "test").await.map(|_| ());
    let replication = Route::start(Settings::new(wrong), Position::default(), 1).task.await.unwrap();
    for fault in [sql, replication] {
        assert_says(&said(fault), &["no database nowhere", r#"create database "nowhere""#]);
    }
    cluster.stop();
    let sql = lockstep::pg::connect(&cluster.url(), "test").await.map(|_| ());
    let replication = Route::start(Settings::new(cluster.url()), Position::default(), 1).task.await.unwrap();
    for fault in [sql, replication] {
        assert!(matches!(&fault, Err(Fault::Retry { cause }) if cause.contains("cannot reach")), "{fault:?}");
    }
}
