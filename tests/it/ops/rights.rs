//! The rights that docs/security.md gives, run as they stand there: enough for everything, and no more.

use super::super::rig::{Rig, public};
use super::prometheus::root;

/// The page's SQL under this heading.
fn sql(kind: &str) -> String {
    let page = std::fs::read_to_string(root().join("docs/security.md")).unwrap();
    let block = page.split(&format!("```sql {kind}\n")).nth(1).expect("the page has this block");
    block.split("```").next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_of_the_page_on_security_are_enough_and_no_more() {
    let tables = "create table agents (id int primary key, name text); create table tasks (id int primary key)";
    let mut rig = Rig::new(tables).await;
    rig.env.clear(); // with every table of ours at the source
    let source = &rig.pair.source;
    source.execute("insert into agents select i, 'a' || i from generate_series(1, 300) i").await.unwrap();
    source.execute(&sql("source")).await.unwrap();
    let admin = rig.source_url.clone();
    let (code, out, err) =
        rig.verb(&["setup", "source", "--role", "lockstep", "--apply", "--database-url", &admin]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    let address = admin.split_once('@').unwrap().1.to_owned();
    rig.source_url = format!("postgres://lockstep:choose-a-long-one@{address}");
    rig.start();
    rig.settled().await;

    // What it needed for its first start is taken back; all goes on, with a new start too.
    rig.pair.source.execute(&sql("after")).await.unwrap();
    assert_eq!(rig.terminate().await, Some(0));
    rig.start();
    rig.pair.source.execute("insert into tasks values (1); delete from agents where id = 7").await.unwrap();
    rig.settled().await;
    rig.assert_equal(&public(&["agents", "tasks"])).await;
    let (code, out, err) = rig.verb(&["verify"]).await;
    assert_eq!(code, Some(0), "{out}{err}\n{}", rig.tail());
    rig.pair.supabase.execute("delete from agents where id = 9").await.unwrap();
    let (code, out, err) = rig.verb(&["sync"]).await;
    assert_eq!(code, Some(0), "{out}{err}\n{}", rig.tail());
    assert!(!rig.tail().contains("permission denied"), "{}", rig.tail());

    let forbidden =
        ["insert into agents values (0)", "delete from tasks", "create table public.mine ()", "create schema mine"];
    for sql in forbidden {
        let tried = format!("set role lockstep; {sql}");
        let refused = rig.pair.source.execute(&tried).await;
        assert!(refused.is_err_and(|error| error.to_string().contains("permission denied")), "{sql}");
    }
    let attributes = "select concat_ws(' ', rolsuper, rolcreaterole, rolcreatedb, rolbypassrls) from pg_roles where rolname = 'lockstep'";
    assert_eq!(rig.pair.source.value(attributes).await.unwrap(), "f f f f");
}
