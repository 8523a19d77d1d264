//! Rows that the target refuses are set aside, each with its reason, while the rest goes on; none is ever dropped.

use lockstep::lab::{Mishap, Owner, PairOptions, SupabaseOptions};

use super::rig::{Rig, public, says_nothing_of_a_journal, until};

const TABLES: &str = "create table item (id int primary key, n int, body text); \
                      alter table item alter body set storage external; \
                      create table other (id int primary key, v text)";
const STRICTER: &str = "alter table item add constraint small check (n < 100)";

/// A service that streams; the target takes less than the source.
async fn streaming(owner: Owner, tables: &str, stricter: &str, env: &[(&str, &str)]) -> Rig {
    let supabase = SupabaseOptions { owner, ..SupabaseOptions::default() };
    let mut rig = Rig::with(PairOptions { supabase, ..PairOptions::default() }, tables).await;
    rig.env = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    rig.pair.supabase.execute(stricter).await.unwrap();
    rig.start();
    rig.settled().await;
    rig
}

async fn plain() -> Rig {
    streaming(Owner::SetReplicationRole, TABLES, STRICTER, &[]).await
}

async fn source(rig: &Rig, sql: &str) {
    rig.pair.source.execute(sql).await.unwrap();
}

async fn on_the_target(rig: &Rig, sql: &str) {
    rig.pair.supabase.execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// One text of the target's superuser.
async fn target(rig: &Rig, sql: &str) -> String {
    rig.pair.supabase.cluster.value(sql).await.unwrap()
}

/// What is parked: `table key operation sqlstate`, in order.
async fn parked(rig: &Rig) -> String {
    target(
        rig,
        "select coalesce(string_agg(concat_ws(' ', table_name, key, operation, sqlstate), ', ' \
         order by table_name, key, operation), '') from lockstep.parked",
    )
    .await
}

async fn items(rig: &Rig) -> String {
    target(rig, "select coalesce(string_agg(id || ':' || n, ' ' order by id), '') from item").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_refused_parks_alone_and_everything_else_arrives() {
    let mut rig = plain().await;
    source(
        &rig,
        "begin; insert into item values (1, 1), (2, 200), (3, 3); insert into other values (1, 'with it'); commit; \
         insert into item values (4, 4); insert into other values (2, 'later')",
    )
    .await;
    rig.settled().await;
    assert_eq!(items(&rig).await, "1:1 3:3 4:4");
    rig.assert_equal(&public(&["other"])).await;
    assert_eq!(parked(&rig).await, r#"item ["2"] write 23514"#);
    let kept = "select concat_ws(' ', new->>'n', coalesce(old::text, 'none'), reason) from lockstep.parked";
    let kept = target(&rig, kept).await;
    assert!(kept.starts_with("200 none ") && kept.contains("\"small\""), "{kept}");
    // The position is that of the checkpoint that moved past it.
    let position = "select (major > 0 and major <= (select max(c.major) from lockstep.checkpoint c))::text";
    assert_eq!(target(&rig, &format!("{position} from lockstep.parked")).await, "true");
    until("the gauge shows it", async || rig.metric("lockstep_parked_rows{table=\"public.item\"}").await == 1.0).await;
    assert_eq!(rig.metric("lockstep_rows_dropped_total").await, 0.0);
    until("the verdict says so", async || {
        let Some(status) = rig.status().await else { return false };
        status["verdict"] == "broken" && status["why"] == "1 row of public.item is parked"
    })
    .await;
    assert_eq!(rig.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn later_changes_of_a_parked_row_supersede_it_and_a_good_one_settles_it() {
    let mut rig = plain().await;
    source(&rig, "insert into item values (1, 1, repeat('long', 5000)), (2, 2, repeat('long', 5000))").await;
    rig.settled().await;
    source(&rig, "update item set n = 500 where id = 1").await; // the long text does not travel
    rig.settled().await;
    assert_eq!(items(&rig).await, "1:1 2:2");
    assert_eq!(target(&rig, "select (old->>'n') || ' ' || (new->>'n') from lockstep.parked").await, "1 500");
    source(&rig, "update item set n = 600 where id = 1; update item set n = 7 where id = 2").await;
    rig.settled().await;
    assert_eq!(items(&rig).await, "1:1 2:7");
    assert_eq!(target(&rig, "select concat(new->>'n', ' ', attempts) from lockstep.parked").await, "600 2");
    // A part of the row would make no row of it: it comes whole.
    source(&rig, "update item set n = 8 where id = 1").await;
    rig.settled().await;
    assert_eq!(parked(&rig).await, "");
    rig.assert_equal(&public(&["item"])).await;
    // Refused, then gone; refused, then under another key.
    source(&rig, "insert into item values (5, 500), (6, 600)").await;
    rig.settled().await;
    assert_eq!(parked(&rig).await, r#"item ["5"] write 23514, item ["6"] write 23514"#);
    source(&rig, "delete from item where id = 5; update item set id = 7 where id = 6").await;
    rig.settled().await;
    assert_eq!(parked(&rig).await, r#"item ["7"] write 23514"#, "{}", rig.tail());
    source(&rig, "update item set id = 8, n = 8 where id = 7; update item set id = 9, n = 900 where id = 2").await;
    rig.settled().await;
    assert_eq!(parked(&rig).await, r#"item ["2"] delete 23514, item ["9"] write 23514"#);
    source(&rig, "update item set n = 9 where id = 9").await;
    until("both halves are settled", async || {
        rig.pair.supabase.cluster.execute("update lockstep.parked set next_at = now()").await.unwrap();
        parked(&rig).await.is_empty()
    })
    .await;
    rig.assert_equal(&public(&["item"])).await;
    source(&rig, "insert into item values (50, 500)").await;
    rig.settled().await;
    source(&rig, "truncate item").await;
    rig.settled().await;
    assert_eq!(parked(&rig).await, "");
    assert_eq!(rig.metric("lockstep_rows_dropped_total").await, 0.0);
    assert_eq!(rig.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_depend_on_a_parked_one_park_with_it_and_come_behind_it() {
    let tables = "create table parent (id int primary key, n int); \
                  create table child (id int primary key, parent int not null references parent)";
    let stricter = "alter table parent add constraint small check (n < 100)";
    let mut rig = streaming(Owner::Plain, tables, stricter, &[]).await;
    source(
        &rig,
        "insert into parent values (1, 1), (2, 200); insert into child values (1, 1), (2, 2); \
                  insert into child values (3, 1)",
    )
    .await;
    rig.settled().await;
    assert_eq!(parked(&rig).await, r#"child ["2"] write 23503, parent ["2"] write 23514"#);
    assert_eq!(target(&rig, "select string_agg(id::text, ' ' order by id) from child").await, "1 3");
    let reason = target(&rig, "select reason from lockstep.parked where table_name = 'child'").await;
    assert!(reason.contains("public.parent, which is parked itself"), "{reason}");
    source(&rig, "update parent set n = 2 where id = 2").await;
    until("the child follows", async || parked(&rig).await.is_empty()).await;
    rig.assert_equal(&public(&["parent", "child"])).await;
    assert_eq!(rig.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_writes_what_the_source_holds_now_once_nothing_is_in_the_way() {
    let trigger = "create table closed (id int primary key); insert into closed values (1), (2), (3); \
         create function small() returns trigger language plpgsql security definer as $$ begin \
         if exists (select from public.closed c where c.id = new.id) then raise 'small: % is closed', new.id; end if; \
         return new; end $$; create trigger small before insert on item for each row execute function small(); \
         alter table item enable always trigger small";
    let mut rig = streaming(Owner::SetReplicationRole, TABLES, trigger, &[]).await;
    source(&rig, "insert into item values (1, 100), (2, 200), (3, 300)").await;
    rig.settled().await;
    let (code, out, err) = rig.verb(&["parked", "list"]).await;
    assert_eq!((code, out.lines().filter(|line| line.contains("public.item")).count()), (Some(0), 3), "{out}{err}");
    assert!(out.contains("P0001") && out.contains("small: 1 is closed"), "{out}");
    on_the_target(&rig, "truncate closed").await;
    let (code, out, err) = rig.verb(&["parked", "retry", "public.item", "--key", "2"]).await;
    assert_eq!((code, out.trim()), (Some(0), "1 row will be read again and tried"), "{out}{err}");
    until("it is there", async || items(&rig).await == "2:200").await;
    let (code, out, _) = rig.verb(&["parked", "reread", "--json"]).await;
    assert_eq!(code, Some(0));
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["rows"], 2, "{said}");
    until("all are there", async || parked(&rig).await.is_empty()).await;
    rig.assert_equal(&public(&["item"])).await;
    until("the gauge is empty", async || rig.metric("lockstep_parked_rows{table=\"public.item\"}").await == 0.0).await;
    assert_eq!(rig.metric("lockstep_rows_discarded_total").await, 0.0);
    assert_eq!(rig.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_row_counts_as_discarded_and_not_as_dropped() {
    let mut rig = plain().await;
    source(&rig, "insert into item values (1, 100), (2, 200), (3, 3)").await;
    rig.settled().await;
    let (code, _, err) = rig.verb(&["parked", "discard"]).await;
    assert_eq!(code, Some(2), "without a table or --all nothing is discarded: {err}");
    let (code, _, err) = rig.verb(&["parked", "discard", "public.nothing"]).await;
    assert!(code == Some(1) && err.contains("public.nothing"), "{err}");
    let api = format!("http://127.0.0.1:{}/api/parked", rig.http);
    let listed: serde_json::Value = rig.get("/api/parked").await.unwrap().json().await.unwrap();
    assert_eq!(
        (listed["rows"].as_array().map(Vec::len), &listed["rows"][1]["key"][0]),
        (Some(2), &"2".into()),
        "{listed}"
    );
    let post = async |path: &str, body: &str| {
        let answer = rig.web.post(format!("{api}/{path}")).body(body.to_owned()).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    for (path, body, status) in [
        ("discard", "", 400),
        ("discard", r#"{"key": ["1"]}"#, 400),
        ("discard", r#"{"tabel": "item"}"#, 400),
        ("forget", "", 404),
        ("retry", r#"{"table": "item", "key": ["1"]}"#, 200),
    ] {
        let answer = post(path, body).await;
        assert_eq!(answer.0, status, "{path} {body}: {answer:?}");
    }
    let (code, out, err) = rig.verb(&["parked", "discard", "public.item", "--key", "1"]).await;
    assert_eq!((code, out.trim()), (Some(0), "1 row discarded"), "{err}");
    assert_eq!(parked(&rig).await, r#"item ["2"] write 23514"#);
    until("it is counted", async || rig.metric("lockstep_rows_discarded_total").await == 1.0).await;
    assert_eq!(rig.metric("lockstep_rows_dropped_total").await, 0.0);
    assert!(post("discard", r#"{"table": "item"}"#).await.1.contains(r#""rows":1"#));
    assert_eq!(parked(&rig).await, "");
    until("it is counted too", async || rig.metric("lockstep_rows_discarded_total").await == 2.0).await;
    // Its next change tells of it again: it was not forgotten that the row exists.
    source(&rig, "update item set n = 1 where id = 1").await;
    rig.settled().await;
    assert_eq!(items(&rig).await, "1:1 3:3");
    assert_eq!(rig.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_stops_the_route_until_the_row_is_taken() {
    let env = [("LOCKSTEP_ON_REFUSAL", "strict"), ("LOCKSTEP_LOOK_AGAIN", "1s")];
    let mut rig = streaming(Owner::SetReplicationRole, TABLES, STRICTER, &env).await;
    source(&rig, "insert into item values (1, 1); insert into item values (2, 200); insert into item values (3, 3)")
        .await;
    until("it is stopped", async || rig.status().await.is_some_and(|status| status["state"] == "stopped")).await;
    assert_eq!(parked(&rig).await, "");
    on_the_target(&rig, "alter table item drop constraint small").await;
    rig.settled().await;
    rig.assert_equal(&public(&["item"])).await;
    assert_eq!(rig.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_each_refused_row_is_parked_exactly_once() {
    let mut rig = plain().await;
    rig.pair.supabase.faults().aim("rpc/lockstep_apply");
    for round in 0..6 {
        if round % 2 == 0 {
            rig.pair.supabase.faults().next(Mishap::AnswerLost, 2);
        }
        let rows = format!(
            "select i, case i % 10 when 0 then 1000 else i % 100 end from generate_series({}, {}) i",
            round * 100 + 1,
            round * 100 + 100
        );
        source(&rig, &format!("insert into item {rows}")).await;
        rig.kill9().await;
        rig.start();
    }
    rig.settled().await;
    let count = "select count(*) || ' ' || count(distinct key) || ' ' || max(attempts) from lockstep.parked";
    assert_eq!(target(&rig, count).await, "60 60 1");
    assert_eq!(target(&rig, "select count(*) from item").await, "540");
    // Nobody asks for it: the shape of the table changed, so they are tried again.
    on_the_target(&rig, "alter table item drop constraint small").await;
    until("all are there", async || parked(&rig).await.is_empty()).await;
    rig.assert_equal(&public(&["item"])).await;
    assert_eq!(rig.terminate().await, Some(0));
}

/// A table's state as the service tells it, and why.
async fn state(rig: &Rig, table: &str) -> (String, String) {
    let Some(status) = rig.status().await else { return Default::default() };
    let tables = status["tables"].as_array().cloned().unwrap_or_default();
    let found = tables.iter().find(|one| one["name"] == table);
    let text = |name: &str| found.and_then(|one| one[name].as_str()).unwrap_or_default().to_owned();
    (text("state"), text("cause"))
}

async fn is_parked(rig: &Rig, table: &str) -> String {
    until("the table is set aside", async || state(rig, table).await.0 == "parked").await;
    state(rig, table).await.1
}

/// The statement that a reason names.
fn statement(cause: &str) -> String {
    cause.split_once("; in Supabase: ").unwrap_or_else(|| panic!("{cause}")).1.lines().next().unwrap().to_owned()
}

async fn count(rig: &Rig, table: &str) -> String {
    target(rig, &format!("select count(*) from {table}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_added_at_the_source_sets_its_table_aside_until_the_printed_statement_was_run() {
    let mut rig = streaming(Owner::SetReplicationRole, TABLES, "", &[("LOCKSTEP_LOOK_AGAIN", "1s")]).await;
    source(&rig, "insert into item values (1, 1), (2, 2)").await;
    rig.settled().await;
    source(
        &rig,
        "alter table item add column extra timestamptz; insert into item values (3, 3, null, now()); \
                  insert into other values (1, 'goes on')",
    )
    .await;
    let cause = is_parked(&rig, "public.item").await;
    assert!(cause.contains(r#"alter table "public"."item" add column "extra" timestamp with time zone;"#), "{cause}");
    until("the other goes on", async || count(&rig, "other").await == "1").await;
    source(
        &rig,
        "delete from item where id = 1; update item set n = 20 where id = 2; insert into other values (2, 'x')",
    )
    .await;
    until("the other goes on", async || count(&rig, "other").await == "2").await;
    assert_eq!(items(&rig).await, "1:1 2:2");
    until("the gauge shows it", async || rig.metric("lockstep_tables{state=\"parked\"}").await == 1.0).await;
    let (_, out, _) = rig.verb(&["parked", "list"]).await;
    assert!(out.contains("public.item") && out.contains("add column"), "{out}");
    // A start finds it aside, and does not end because of it.
    rig.kill9().await;
    rig.start();
    is_parked(&rig, "public.item").await;
    on_the_target(&rig, &statement(&cause)).await;
    until("it streams again", async || state(&rig, "public.item").await.0 == "streaming").await;
    rig.settled().await;
    source(&rig, "insert into item values (4, 4, null, now())").await;
    rig.settled().await;
    until("all is there", async || {
        count(&rig, "item where id in (2, 3, 4) and (n = 20 or extra is not null)").await == "3"
    })
    .await;
    rig.assert_equal(&public(&["other"])).await;
    assert_eq!(rig.metric("lockstep_rows_dropped_total").await, 0.0);
    assert_eq!(rig.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_or_a_table_that_goes_missing_in_supabase_sets_its_table_aside_and_the_others_go_on() {
    let mut rig = streaming(Owner::SetReplicationRole, TABLES, "", &[("LOCKSTEP_LOOK_AGAIN", "1s")]).await;
    source(&rig, "insert into item values (1, 1); insert into other values (1, 'a')").await;
    rig.settled().await;
    on_the_target(&rig, "alter table item drop column body").await;
    source(&rig, "begin; insert into item values (2, 2, 'b'); insert into other values (2, 'b'); commit").await;
    let cause = is_parked(&rig, "public.item").await;
    assert!(cause.contains(r#"alter table "public"."item" add column "body" text;"#), "{cause}");
    until("the other goes on", async || count(&rig, "other").await == "2").await;
    on_the_target(&rig, &statement(&cause)).await;
    rig.settled().await;
    rig.assert_equal(&public(&["item", "other"])).await;
    on_the_target(&rig, "drop table item").await;
    source(&rig, "insert into item values (3, 3); insert into other values (3, 'c')").await;
    let cause = is_parked(&rig, "public.item").await;
    assert!(cause.contains("lockstep schema --table public.item"), "{cause}");
    until("the other goes on", async || count(&rig, "other").await == "3").await;
    let (code, sql, _) = rig.verb(&["schema", "--table", "public.item"]).await;
    assert_eq!(code, Some(0));
    on_the_target(&rig, &sql).await;
    rig.settled().await;
    rig.assert_equal(&public(&["item", "other"])).await;
    assert_eq!(rig.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_additive_an_added_column_follows_by_itself_and_old_rows_have_their_value() {
    let env = [("LOCKSTEP_LOOK_AGAIN", "1s"), ("LOCKSTEP_EVOLVE", "additive")];
    let mut rig = streaming(Owner::SetReplicationRole, TABLES, "", &env).await;
    source(&rig, "insert into item select i, i from generate_series(1, 100) i").await;
    rig.settled().await;
    source(
        &rig,
        r#"alter table item add column "It's" text not null default 'it''s {old}', add column plain numeric(10, 2)[];
           update item set "It's" = 'new', plain = '{1.50,NULL}' where id = 1; insert into item values (101, 101);
           alter table item alter column "It's" set default 'younger'; insert into item values (102, 102)"#,
    )
    .await;
    rig.settled().await;
    rig.assert_equal(&public(&["item"])).await;
    let old = r#"select count(*) || ' ' || count(*) filter (where "It's" = 'it''s {old}') from item"#;
    assert_eq!(target(&rig, old).await, "102 100");
    // They got it with the column: the comparison behind it had nothing to do.
    let log = std::fs::read_to_string(rig.log()).unwrap();
    let compared = log.lines().rfind(|line| line.contains("compared and repaired")).unwrap_or_else(|| panic!("{log}"));
    let updated = compared.split_once("updated=").unwrap().1.split_whitespace().next().unwrap();
    assert!(updated.parse::<u32>().unwrap() < 3, "{compared}");
    // Each row another one: nothing tells them but a comparison.
    source(&rig, "alter table item add column id2 uuid default gen_random_uuid(); insert into item values (103, 103)")
        .await;
    rig.settled().await;
    rig.assert_equal(&public(&["item"])).await;
    // A type that is not there yet: set aside, and it follows once the type was made.
    source(
        &rig,
        "create type mood as enum ('ok'); alter table item add column m mood default 'ok'; \
                  insert into item values (104, 104); insert into other values (1, 'goes on')",
    )
    .await;
    is_parked(&rig, "public.item").await;
    until("the other goes on", async || count(&rig, "other").await == "1").await;
    on_the_target(&rig, "create type mood as enum ('ok')").await;
    rig.settled().await;
    rig.assert_equal(&public(&["item"])).await;
    assert_eq!(rig.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_list_of_the_publication_is_honoured_and_a_row_filter_refused() {
    if says_nothing_of_a_journal("it has no publication") {
        return;
    }
    let tables =
        "create table item (id int primary key, n int, secret text); create table other (id int primary key, v text)";
    let supabase = SupabaseOptions { owner: Owner::SetReplicationRole, ..SupabaseOptions::default() };
    let mut rig = Rig::with(PairOptions { supabase, ..PairOptions::default() }, tables).await;
    source(
        &rig,
        "insert into item values (1, 1, 'hidden'); insert into other values (1, 'a'); \
                  create publication lockstep for table item (id, n), other with (publish_via_partition_root = true)",
    )
    .await;
    rig.env = vec![("LOCKSTEP_LOOK_AGAIN".into(), "1s".into())];
    rig.start();
    rig.settled().await;
    source(&rig, "insert into item values (2, 2, 'hidden too'); update item set n = 10, secret = 'x' where id = 1")
        .await;
    rig.settled().await;
    assert_eq!(items(&rig).await, "1:10 2:2");
    assert_eq!(target(&rig, "select count(secret) from item").await, "0");
    source(&rig, "alter publication lockstep set table item (id, n), other where (id < 10)").await;
    until("it stops", async || rig.status().await.is_some_and(|status| status["state"] == "stopped")).await;
    let fix = rig.status().await.unwrap()["fix"].as_str().unwrap_or_default().to_owned();
    source(&rig, "insert into other values (20, 'missed by the stream')").await;
    let sql = fix.strip_prefix("at the source: ").unwrap_or_else(|| panic!("{fix}")).lines().next().unwrap();
    source(&rig, sql).await;
    rig.settled().await;
    rig.assert_equal(&public(&["other"])).await;
    assert_eq!(rig.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_trigger_over_there_keeps_out_are_parked_and_say_so() {
    const KEEPS_OUT: &str = "create function keeps_out() returns trigger language plpgsql as
          'begin if new.n = 13 then return null; end if; return new; end';
        create trigger keeps_out before insert or update on item for each row execute function keeps_out();
        alter table item enable always trigger keeps_out";
    let mut rig = streaming(Owner::SetReplicationRole, TABLES, KEEPS_OUT, &[]).await;
    source(&rig, "insert into item select i, i, repeat('x', 9000) from generate_series(11, 15) i").await;
    rig.settled().await;
    assert_eq!(items(&rig).await, "11:11 12:12 14:14 15:15");
    assert_eq!(parked(&rig).await, "item [\"13\"] write P0001", "{}", rig.tail());
    // Of a row that is there, a part that must be written and is not.
    source(&rig, "update item set n = 13 where id = 12; insert into other values (1, 'goes on')").await;
    until("the other goes on", async || count(&rig, "other").await == "1").await;
    on_the_target(&rig, "drop trigger keeps_out on item").await;
    until("all is there", async || {
        rig.pair.differences(&public(&["item", "other"])).await.is_ok_and(|all| all.is_empty())
    })
    .await;
    assert_eq!(rig.terminate().await, Some(0));
}

/// The child that is set aside first goes on referring to the parent that goes: then it is the parent's turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_reference_to_a_parked_row_is_told_once_and_the_rest_goes_on() {
    const SCHEMA: &str = "create table parent (id text primary key);
        create table child (id int primary key, parent text references parent deferrable initially deferred);
        create table item (id int primary key, n int)";
    let mut rig =
        streaming(Owner::Plain, SCHEMA, "alter table parent add constraint short check (id <> 'Q')", &[]).await;
    source(&rig, "insert into parent values ('P'), ('Q'); insert into child values (1, 'P')").await;
    rig.settled().await;
    source(&rig, "begin; update child set parent = 'Q' where id = 1; delete from parent where id = 'P'; commit").await;
    source(&rig, "insert into item values (1, 1)").await;
    until("the rest goes on", async || items(&rig).await == "1:1").await;
    on_the_target(&rig, "alter table parent drop constraint short").await;
    source(&rig, "insert into item values (2, 2)").await;
    let (code, _, said) = rig.verb(&["parked", "retry"]).await;
    assert_eq!(code, Some(0), "{said}");
    until("all is there", async || {
        rig.pair.differences(&public(&["parent", "child", "item"])).await.is_ok_and(|all| all.is_empty())
    })
    .await;
    assert_eq!(rig.terminate().await, Some(0));
}
