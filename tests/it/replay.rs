//! Whatever a batch holds, writing it as sets and replaying it in order leave what the source has: random transactions
//! over unique values that change places, references in circles and to themselves, deferred checks and cascades; once
//! written as sets, once replayed because a set is refused in every batch, once by an owner for whom foreign keys act.
//!
//! `LOCKSTEP_SEED` repeats the choices of an earlier run; `LOCKSTEP_RANDOM_SECONDS` makes it longer.

use std::time::{Duration, Instant};

use lockstep::lab::{Owner, PairOptions, Seeded, SupabaseOptions};

use super::rig::{Rig, public, random_seconds, seed};

const SCHEMA: &str = "
    create table parent (id int primary key, u int unique, w int unique deferrable initially deferred, v text, big text);
    alter table parent alter big set storage external;
    create table child (id int primary key, parent int references parent on delete cascade on update cascade
      deferrable initially deferred, v text);
    create table tree (id int primary key, up int references tree on delete set null deferrable initially deferred);
    create table left_side (id int primary key, other int);
    create table right_side (id int primary key, other int references left_side deferrable initially deferred);
    alter table left_side add foreign key (other) references right_side deferrable initially deferred;
    create table pairs (a int, b int, u int unique, primary key (a, b));
    create table span (id int primary key, r int4range, exclude using gist (r with &&));
    create table canary (id int primary key, u int unique);
    insert into canary values (1, 1), (2, 2);
";
const TABLES: [&str; 8] = ["parent", "child", "tree", "left_side", "right_side", "pairs", "span", "canary"];

/// Two unique values change places by way of a third: in order that passes, as a set it is refused.
const CANARY: &str = "update canary set u = 0 where id = 1; update canary set u = 3 - u where id = 2;
    update canary set u = 3 - (select c.u from canary c where c.id = 2) where id = 1;";

/// One statement; few keys, so that transactions meet the same rows again and again.
fn statement(chance: &mut Seeded) -> String {
    let mut n = || 1 + chance.below(14);
    let (a, b, c) = (n(), n(), n());
    match chance.below(24) {
        0 | 1 => format!(
            "insert into parent values ({a}, {b}, {c}, 'new', repeat('big', 2000)) on conflict (id) do update set v = 'again'"
        ),
        2 => format!("update parent set v = v || {b} where id <= {a}"),
        3 => format!("update parent set big = big || 'x', u = {b} where id = {a}"),
        4 => format!(
            "update parent set u = -u where id = {a}; update parent set u = u + 100 where id = {b};
             update parent set u = 1000 - u where id = {a}"
        ),
        5 => format!(
            "update parent p set w = o.w from parent o
             where p.id in ({a}, {b}) and o.id in ({a}, {b}) and p.id <> o.id"
        ),
        6 => format!("update parent set id = {b} where id = {a}"), // its children follow
        7 => format!("delete from parent where id = {a}"),         // its children too
        8 => format!("delete from parent where id = {a}; insert into parent values ({a}, {b}, {c}, 'reborn', 'x')"),
        9 | 10 => format!("insert into child values ({a}, {b}, 'c') on conflict (id) do update set parent = {c}"),
        11 => format!("update child set id = id + 100 where id = {a}; update child set id = {b} where id = {a} + 100"),
        12 => format!("insert into tree values ({a}, {b}) on conflict (id) do update set up = {c}"),
        13 => format!("delete from tree where id = {a}"),
        14 => format!("update tree set id = id + {b} where id = {a}"),
        15 => format!("insert into left_side values ({a}, {a}); insert into right_side values ({a}, {a})"),
        16 => format!(
            "update left_side set id = -id where id = {a}; update right_side set other = -other where other = {a}"
        ),
        17 => format!("delete from right_side where id = {a}; delete from left_side where other = {a} or id = {a}"),
        18 | 19 => format!("insert into pairs values ({a}, {b}, {c}) on conflict (a, b) do update set u = {c} + 50"),
        20 => format!("update pairs set (a, b) = (b, a), u = u + 20 where a = {a}"),
        21 => format!("insert into span values ({a}, int4range({b}, {b} + 2)) on conflict (id) do nothing"),
        22 => format!("update span set r = int4range({b}, {b} + 3) where id = {a}; delete from span where id = {c}"),
        _ => format!("delete from span where id = {a}; truncate pairs"),
    }
}

async fn ends_in_the_sources_state(owner: Owner, canary: bool) {
    let seed = seed();
    println!("LOCKSTEP_SEED={seed}");
    let mut chance = Seeded::new(seed);
    let supabase = SupabaseOptions { owner, ..SupabaseOptions::default() };
    let mut rig = Rig::with(PairOptions { supabase, ..PairOptions::default() }, SCHEMA).await;
    rig.pair.supabase.execute("truncate canary").await.unwrap();
    rig.start();
    rig.settled().await;
    let source = rig.pair.source.connect().await.unwrap();
    let (mut accepted, mut round) = (0, 0);
    let end = Instant::now() + Duration::from_secs(random_seconds());
    while Instant::now() < end || round < 4 || accepted < 20 {
        round += 1;
        // Held up, transactions gather into one batch; else each travels alone.
        let gather = chance.happens(0.6);
        if gather {
            rig.pair.supabase.faults().down().await;
        }
        for _ in 0..1 + chance.below(if gather { 60 } else { 4 }) {
            let statements: Vec<String> = (0..1 + chance.below(5)).map(|_| statement(&mut chance)).collect();
            let canary = if canary { CANARY } else { "" };
            let sql = format!("begin; {canary} {}; commit", statements.join("; "));
            match source.batch_execute(&sql).await {
                Ok(()) => accepted += 1,
                Err(_) => source.batch_execute("rollback").await.unwrap(), // what the source refuses never was
            }
        }
        rig.pair.supabase.faults().up().await;
        rig.settled().await;
        let differences = rig.pair.differences(&public(&TABLES)).await.unwrap();
        let (lines, tail) = (differences.join("\n"), rig.tail());
        assert!(differences.is_empty(), "LOCKSTEP_SEED={seed}, {owner:?}, round {round}:\n{lines}\n{tail}");
    }
    let (replays, batches) = (rig.metric("lockstep_replays_total").await, rig.metric("lockstep_batches_total").await);
    println!("{accepted} transactions in {round} rounds; {replays} of {batches} batches were replayed");
    match (owner, canary) {
        (_, true) => assert!(replays >= f64::from(round) * 0.5, "{replays} replays in {round} rounds"),
        (Owner::Plain, _) => assert_eq!(replays, 0.0, "what came in the source's order was refused"),
        _ => {
            assert!(replays < batches / 2.0, "{replays} of {batches} batches were replayed: what is left of the sets?")
        }
    }
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_written_as_sets_leave_what_the_source_has() {
    ends_in_the_sources_state(Owner::SetReplicationRole, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_replayed_in_order_leave_what_the_source_has() {
    ends_in_the_sources_state(Owner::SetReplicationRole, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_written_where_foreign_keys_act_leave_what_the_source_has() {
    ends_in_the_sources_state(Owner::Plain, false).await;
}
