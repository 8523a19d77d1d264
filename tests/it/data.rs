//! `lockstep data`: what is there, counted on both sides.

use super::rig::Rig;

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_both_sides_are_counted_and_what_differs_or_is_missing_is_said() {
    let mut rig = Rig::new(
        "create schema s; create table person (id int primary key); create table \"A b,c\" (id int primary key)",
    )
    .await;
    rig.pair.source.execute("insert into person select generate_series(1, 1500)").await.unwrap();
    rig.start();
    rig.settled().await;
    let (code, said, _) = rig.verb(&["data"]).await;
    assert_eq!(
        (code, said.as_str()),
        (Some(0), "table          source  Supabase\npublic.A b,c   0       0\npublic.person  1,500   1,500\n")
    );
    rig.pair.supabase.cluster.execute("delete from person where id <= 3").await.unwrap();
    let (code, said, _) = rig.verb(&["data", "person", "--json"]).await;
    let all: serde_json::Value = serde_json::from_str(&said).unwrap();
    let expected = serde_json::json!({"table": "public.person", "source": 1500, "target": 1497, "error": null});
    assert_eq!((code, &all["tables"]), (Some(1), &serde_json::json!([expected])));
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
    rig.pair.supabase.cluster.execute("drop table \"A b,c\"").await.unwrap();
    rig.pair.supabase.reload_schema().await.unwrap();
    let (code, said, _) = rig.verb(&["data"]).await;
    assert_eq!(code, Some(2));
    assert!(said.contains("no such table in Supabase") && said.contains("3 to come"), "{said}");
    let (code, _, said) = rig.verb(&["data", "nobody"]).await;
    assert!(code == Some(1) && said.contains("no replicated table nobody"), "{said}");
}
