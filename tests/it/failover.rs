//! The slot that lives on after a switch to a standby, where the source's version knows such slots.

use super::rig::Rig;

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_is_one_that_standbys_keep_where_the_version_knows_such() {
    let mut rig = Rig::new("create table thing (id int primary key)").await;
    rig.start();
    rig.settled().await;
    // Read as JSON: before version 17 there is no such column.
    let slots = "select string_agg(slot_name || ' ' || coalesce(to_jsonb(s)->>'failover', 'unknown'), ',')
        from pg_replication_slots s";
    let expected = if rig.pair.source.major() >= 17 { "lockstep true" } else { "lockstep unknown" };
    assert_eq!(rig.pair.source.value(slots).await.unwrap(), expected);
    rig.pair.source.execute("insert into thing values (1)").await.unwrap();
    rig.settled().await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}
