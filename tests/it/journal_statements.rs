//! Capture by triggers brings what statements of every kind leave behind.

use lockstep::types::TableName;

use super::rig::{Rig, public, until};

const ODD: &str = r#"
create type pair as (a int, "b c" text);
create schema "Odd";
create table "Odd"."Or{der" ("Id {line}" int, "k""2" text, v pair, t timestamptz, d interval, f float8, b bytea, m money,
  c char(5), ok boolean, i inet, j jsonb, twice int generated always as ("Id {line}" * 2) stored,
  primary key ("k""2", "Id {line}"));
create table self (id int primary key, boss int references self on update cascade on delete cascade, note text);
create table twist (id int primary key, n int, note text, x int default 1, l text, left_keys int);
create table part (id int, at int, v text, primary key (id, at)) partition by range (at);
create table part_1 (v text, at int not null, id int not null);
alter table part attach partition part_1 for values from (0) to (10);
create table part_2 partition of part for values from (10) to (20);
create table parent (id int primary key);
create table child (id int primary key, parent int references parent);
"#;

/// Only at the source: triggers that change the rows that a statement is about to write, or has written.
const TRIGGERS: &str = "
create function replaces() returns trigger language plpgsql as $$ begin
  if new.note = 'replaces' then delete from twist where id = new.id; end if; return new; end $$;
create function follows() returns trigger language plpgsql as $$ begin
  if pg_trigger_depth() = 1 then update twist set n = n + 100 where id = new.id; end if; return null; end $$;
create trigger a before insert on twist for each row execute function replaces();
create trigger b after insert or update on twist for each row execute function follows();";

const STATEMENTS: &[&str] = &[
    r#"set datestyle = 'SQL, DMY'; set intervalstyle = 'iso_8601'; set timezone = 'Asia/Tokyo'; set extra_float_digits = 0;
       set bytea_output = 'escape';
       insert into "Odd"."Or{der" values (1, E'a"\\,)(', row(1, 'x "y" \ z'), '2024-02-03 04:05:06.789+00', '1 year 2 days',
         0.1::float8 + 0.2, '\x00ff', 12.5, 'ab', true, '10.0.0.1', '{"a": 1.50}'),
         (2, '', null, 'infinity', null, 'NaN', '', null, '', false, null, 'null'), (3, 'z', row(null, null), null, null, null,
         null, null, null, null, null, null)"#,
    r#"update "Odd"."Or{der" set "k""2" = "k""2" || 'é', v.a = 5"#,
    "insert into self values (1, 1, 'a'), (2, 1, 'b'), (3, 2, 'c'); update self set id = 10 where id = 1",
    "update self set id = id + 1; delete from self where id = 3",
    "insert into twist select g, g, 'first' from generate_series(1, 5) g; update twist set n = -n where id < 3",
    "insert into twist values (1, 1, 'replaces'), (6, 6, 'replaces'); update twist set id = id + 10 where id > 3",
    "insert into twist values (3, 0, 'x') on conflict (id) do update set note = 'upserted', n = twist.n + 1",
    "with gone as (delete from twist where id < 3 returning *) insert into twist select id, 1, 'again' from gone",
    "insert into part values (1, 1, 'a'), (2, 11, 'b'); update part set at = 12 where id = 1; insert into part_1 values ('c', 3, 3)",
    "update part_1 set v = 'direct'; delete from part_2 where id = 2",
    "begin; insert into parent values (1); savepoint s; insert into parent values (2); rollback to s; insert into parent \
     values (3); insert into child values (1, 3); commit",
    "truncate parent, child; insert into parent values (9)",
    "begin; insert into twist values (100, 1, 'held'); prepare transaction 'p'",
    "commit prepared 'p'",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_statement_leaves_the_same_rows_behind() {
    let mut options = lockstep::lab::PairOptions::default();
    options.supabase.owner = lockstep::lab::Owner::SetReplicationRole;
    options.source = options.source.set("wal_level", "replica").set("max_prepared_transactions", "5");
    let mut rig = Rig::with(options, ODD).await;
    rig.env.retain(|(name, _)| name != "LOCKSTEP_CAPTURE");
    rig.env.push(("LOCKSTEP_CAPTURE".into(), "journal".into()));
    std::fs::write(rig.dir.path().join("lockstep.toml"), "[tables]\nschemas = [\"public\", \"Odd\"]\n").unwrap();
    rig.pair.source.execute(TRIGGERS).await.unwrap();
    let grant =
        r#"grant usage on schema "Odd" to service_role; grant all on all tables in schema "Odd" to service_role"#;
    rig.pair.supabase.cluster.execute(grant).await.unwrap();
    rig.start();
    rig.settled().await;
    let mut tables = public(&["self", "twist", "part", "parent", "child"]);
    tables.push(TableName::new("Odd", "Or{der"));
    for (n, sql) in STATEMENTS.iter().enumerate() {
        rig.pair.source.execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        // Not behind each, as the service tells how far it is every two seconds; nothing settles while one is prepared.
        if n % 5 == 3 || n + 1 == STATEMENTS.len() {
            rig.settled().await;
            let differences = rig.pair.differences(&tables).await.unwrap();
            assert!(differences.is_empty(), "{sql}\n{}\n{}", differences.join("\n"), rig.tail());
        }
    }
    // A column that comes while the triggers know none of it: nobody's write fails, and nothing of it is lost.
    rig.pair.supabase.cluster.execute("alter table twist add column more text").await.unwrap();
    rig.pair.source.execute("alter table twist add column more text; update twist set more = 'new'").await.unwrap();
    rig.pair.supabase.reload_schema().await.unwrap();
    until("the altered table is the same again", async || {
        rig.pair.differences(&public(&["twist"])).await.is_ok_and(|differences| differences.is_empty())
    })
    .await;
    rig.pair.source.execute("update twist set more = 'newer', n = 0").await.unwrap();
    rig.settled().await;
    rig.assert_equal(&tables).await;
}
