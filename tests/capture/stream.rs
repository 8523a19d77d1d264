//! The stream itself.

use super::*;

#[tokio::test]
async fn changes_arrive_whole_and_in_commit_order_with_their_values() {
    let cluster = Cluster::start(&[]).await;
    let (mut sql, settings, start) = source(&cluster).await;
    let mut route = Route::start(settings, start, 1 << 20);
    sql.batch_execute("insert into t values (1, 'a'), (2, null), (3, E'\\'\\\\ü')").await.unwrap();
    sql.batch_execute("update t set v = 'b' where id = 1; update t set id = 20 where id = 2").await.unwrap();
    let late = sql.transaction().await.unwrap();
    late.batch_execute("delete from t where id = 3").await.unwrap();
    let early = cluster.sql().await;
    early.batch_execute("insert into other values ('not published')").await.unwrap();
    early.batch_execute("select pg_logical_emit_message(true, 'lockstep', 'mark')").await.unwrap();
    early.batch_execute("select pg_logical_emit_message(true, 'other', 'not ours')").await.unwrap();
    late.commit().await.unwrap();
    sql.batch_execute("truncate t").await.unwrap();
    let mut end = start;
    for expected in [
        &["+ 1,a", "+ 2,null", "+ 3,'\\ü"][..],
        &["~ 1,b", "~ 2,null -> 20,null"],
        &["! mark"],
        &["- 3,null"],
        &["0 public.t"],
    ] {
        let transaction = route.next().await;
        assert_eq!(lines(&transaction), expected);
        assert!(transaction.end > end && transaction.commit >= end.lsn(), "{} after {end}", transaction.end);
        end = transaction.end;
    }
    route.kill().await;
}

#[tokio::test]
async fn a_stalled_consumer_survives_the_servers_timeout() {
    let cluster = Cluster::start(&["wal_sender_timeout=2s"]).await;
    let (sql, settings, start) = source(&cluster).await;
    let mut route = Route::start(settings, start, 1000); // a queue that is full at once
    sql.batch_execute("insert into t select n, repeat('x', 900) from generate_series(1, 9) n").await.unwrap();
    sql.batch_execute(
        "do $$ begin for n in 10..5000 loop insert into t values (n, repeat('x', 900)); commit; end loop; end $$",
    )
    .await
    .unwrap();
    // Longer than twice the timeout, on one and the same connection.
    until(&sql, "select bool_and(reply_time - backend_start > '5 s') from pg_stat_replication").await;
    let mut rows = 0;
    while rows < 5000 {
        rows += route.next().await.changes.len();
    }
    assert_eq!(rows, 5000);
    route.kill().await;
}

#[tokio::test]
async fn after_a_kill_it_goes_on_where_the_checkpoint_stands() {
    let cluster = Cluster::start(&[]).await;
    let (sql, settings, start) = source(&cluster).await;
    let (mut resume, mut arrived) = (start, Vec::new());
    for round in 0..5 {
        let mut route = Route::start(settings.clone(), resume, 1 << 20);
        for n in 0..20 {
            sql.batch_execute(&format!("insert into t values ({}, '')", round * 20 + n)).await.unwrap();
        }
        // Of what arrives only some becomes durable; the slot must not be told more.
        for n in 0..15 {
            let transaction = route.next().await;
            if n < 10 {
                arrived.extend(lines(&transaction));
                resume = transaction.end;
                route.checkpoint.send(resume).unwrap();
            }
        }
        until(&sql, &format!("select ({CONFIRMED}) = '{}'", resume.lsn())).await;
        route.kill().await;
        until(&sql, "select not active from pg_replication_slots").await;
    }
    let mut route = Route::start(settings, resume, 1 << 20);
    while arrived.len() < 100 {
        arrived.extend(lines(&route.next().await));
    }
    assert_eq!(arrived, (0..100).map(|n| format!("+ {n},")).collect::<Vec<_>>());
    route.kill().await;
}

#[tokio::test]
async fn an_oversize_transaction_comes_in_parts_and_resumes_between_them() {
    let cluster = Cluster::start(&[]).await;
    let (sql, mut settings, start) = source(&cluster).await;
    settings.part_bytes = 10_000;
    sql.batch_execute("insert into t select n, repeat('x', 100) from generate_series(1, 1000) n").await.unwrap();
    sql.batch_execute("insert into t values (1001, '')").await.unwrap();
    let mut route = Route::start(settings.clone(), start, 1 << 20);
    let (mut ids, mut resume) = (Vec::new(), start);
    let id = |line: String| line.split([' ', ',']).nth(1).unwrap().parse::<u32>().unwrap();
    for _ in 0..5 {
        let part = route.next().await;
        assert!(part.bytes <= 10_000 && !part.is_last_part(), "{} bytes up to {}", part.bytes, part.end);
        ids.extend(lines(&part).into_iter().map(id));
        resume = part.end;
        route.checkpoint.send(resume).unwrap();
    }
    until(&sql, &format!("select ({CONFIRMED}) = '{}'", resume.lsn())).await;
    route.kill().await;
    until(&sql, "select not active from pg_replication_slots").await;
    settings.part_bytes = 7_777;
    let mut route = Route::start(settings, resume, 1 << 20);
    while ids.len() < 1001 {
        ids.extend(lines(&route.next().await).into_iter().map(id));
    }
    assert!(ids.into_iter().eq(1..=1001));
    route.kill().await;
}

#[tokio::test]
async fn an_idle_table_on_a_busy_server_holds_back_no_wal() {
    let cluster = Cluster::start(&[]).await;
    let (sql, mut settings, start) = source(&cluster).await;
    settings.mark_interval = Duration::from_millis(50);
    let mut route = Route::start(settings, start, 1 << 20);
    sql.batch_execute("insert into t values (1, 'a')").await.unwrap();
    let end = route.next().await.end;
    sql.batch_execute("insert into other select 'x' from generate_series(1, 10000)").await.unwrap();
    let busy = lsn(&sql, "select pg_current_wal_lsn()").await;
    // A mark behind all of it is handed on; but what was handed on is not durable yet.
    let mark = loop {
        let mark = route.any().await;
        assert!(mark.changes.is_empty() && mark.end > end);
        if mark.end.lsn() >= busy {
            break mark.end;
        }
    };
    let confirmed = lsn(&sql, CONFIRMED).await;
    assert!(confirmed < end.lsn(), "confirmed {confirmed}, though {end} is in flight");
    route.checkpoint.send(end).unwrap();
    until(&sql, &format!("select ({CONFIRMED}) = '{}'", end.lsn())).await;
    route.checkpoint.send(mark).unwrap();
    until(&sql, &format!("select ({CONFIRMED}) = '{}'", mark.lsn())).await;
    route.kill().await;
}

#[tokio::test]
async fn the_source_can_shut_down_while_we_are_connected() {
    let mut cluster = Cluster::start(&[]).await;
    let (sql, settings, start) = source(&cluster).await;
    let mut route = Route::start(settings.clone(), start, 1 << 20);
    sql.batch_execute("insert into t values (1, 'a')").await.unwrap();
    let end = route.next().await.end;
    route.checkpoint.send(end).unwrap();
    sql.batch_execute("insert into other select 'x' from generate_series(1, 10000)").await.unwrap();
    drop(sql);
    // The target is away: nobody moves the checkpoint any more.
    let took = tokio::task::spawn_blocking(move || (cluster.stop(), cluster));
    let (took, mut cluster) = took.await.unwrap();
    assert!(took < Duration::from_secs(30), "the server waited {took:?} for us");
    let ended = route.task.await.unwrap();
    assert!(matches!(ended, Err(Fault::Retry { .. })), "{ended:?}");
    // And nothing is lost on the other side of the restart.
    cluster.serve().await;
    let mut route = Route::start(settings, end, 1 << 20);
    cluster.sql().await.batch_execute("insert into t values (2, 'b')").await.unwrap();
    assert_eq!(lines(&route.next().await), ["+ 2,b"]);
    route.kill().await;
}

#[tokio::test]
async fn a_stop_confirms_what_still_becomes_durable_and_frees_the_slot() {
    let cluster = Cluster::start(&[]).await;
    let (sql, settings, start) = source(&cluster).await;
    let mut route = Route::start(settings, start, 1 << 20);
    sql.batch_execute("insert into t values (1, 'a')").await.unwrap();
    let end = route.next().await.end;
    sql.batch_execute("insert into t values (2, 'not handed on any more')").await.unwrap();
    route.next().await;
    route.stop.send(true).unwrap();
    assert!(route.transactions.recv().await.is_none(), "it went on reading");
    route.checkpoint.send(end).unwrap();
    drop(route.checkpoint);
    assert_eq!(route.task.await.unwrap(), Ok(()));
    until(&sql, "select not active from pg_replication_slots").await;
    assert_eq!(lsn(&sql, CONFIRMED).await, end.lsn());
}

#[tokio::test]
async fn a_row_larger_than_every_buffer_arrives_whole_and_what_follows_too() {
    let cluster = Cluster::start(&[]).await;
    let (sql, settings, start) = source(&cluster).await;
    let mut route = Route::start(settings, start, 1000);
    sql.batch_execute("insert into t values (1, repeat('x', 20000000)), (2, 'small')").await.unwrap();
    sql.batch_execute("update t set id = 10 where id = 1").await.unwrap();
    let big = route.next().await;
    let Change::Insert { new, .. } = &big.changes[0] else { panic!("{:?}", big.end) };
    let Some(Cell::Text(text)) = new.cells().nth(1) else { panic!("no value") };
    assert!(text.len() == 20_000_000 && text.iter().all(|&byte| byte == b'x'));
    assert_eq!(lines(&route.next().await), ["+ 2,small"]);
    // The value was not touched, so the WAL does not hold it.
    assert_eq!(lines(&route.next().await), ["~ 1,null -> 10,unchanged"]);
    route.kill().await;
}
