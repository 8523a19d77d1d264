//! What `lockstep schema` prints makes, on an empty target, the tables that the source has.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on fails right there

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use lockstep::lab::{Cluster, ClusterOptions, Supabase, SupabaseOptions};
use lockstep::pg::catalog::{self, Selection, Why};
use lockstep::schema;
use lockstep::types::Fault;
use tokio_postgres::Client;

const NASTY: &str = include_str!("fixtures/nasty.sql");

fn nasty_selection() -> Selection {
    let schemas = ["public", "aux", "Odd \"Schema\".x", "lockstep"].map(str::to_owned).to_vec();
    Selection { schemas, ..Selection::default() }
}

async fn database(cluster: &Cluster, name: &str, sql: &str) -> Client {
    cluster.execute(&format!("create database {name}")).await.unwrap();
    let client = cluster.connect_to(name).await.unwrap();
    client.batch_execute(sql).await.unwrap();
    client
}

/// As a person would load it.
fn psql(url: &str, script: &str) -> Result<(), String> {
    use std::io::Write;
    let mut psql = Command::new("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-", url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    psql.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let done = psql.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    if done.status.success() && said.is_empty() { Ok(()) } else { Err(said) }
}

/// A line for everything that makes the database what it is, spelled by Postgres, without asking the code under test.
async fn described(client: &Client) -> BTreeSet<String> {
    const LINES: &str = "
        select 'column ' || a.attrelid::regclass || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
            || case when a.attnotnull then ' not null' else '' end
            || case when a.attcollation <> t.typcollation then ' collate ' || a.attcollation::regcollation else '' end
            || coalesce(' identity ' || nullif(a.attidentity::text, ''), '')
            || coalesce(' generated ' || nullif(a.attgenerated::text, ''), '')
            || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
            || coalesce(' says ' || col_description(a.attrelid, a.attnum), '')
        from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_type t on t.oid = a.atttypid
        left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where c.relkind in ('r', 'p', 'c') and a.attnum > 0 and not a.attisdropped
          and c.relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
        union all
        select 'constraint ' || coalesce(nullif(conrelid, 0)::regclass::text, contypid::regtype::text) || ' ' || conname
            || ' ' || pg_get_constraintdef(oid)
        from pg_constraint where connamespace::regnamespace::text !~ '^(pg_|information_schema)' and contype <> 'n'
        union all
        select 'index ' || pg_get_indexdef(indexrelid) from pg_index where indexrelid >= 16384
          and indrelid::regclass::text !~ '^pg_toast'
        union all
        select 'partition ' || c.oid::regclass || ' of ' || i.inhparent::regclass || ' '
            || pg_get_expr(c.relpartbound, c.oid) from pg_class c join pg_inherits i on i.inhrelid = c.oid
        where c.relispartition and c.relkind in ('r', 'p')
        union all
        select 'partitioned ' || oid::regclass || ' ' || pg_get_partkeydef(oid) from pg_class where relkind = 'p'
        union all
        select 'enum ' || enumtypid::regtype || ' ' || string_agg(quote_literal(enumlabel), ', ' order by enumsortorder)
        from pg_enum group by enumtypid
        union all
        select 'domain ' || oid::regtype || ' ' || format_type(typbasetype, typtypmod) || ' ' || typnotnull || ' '
            || typcollation::regcollation || coalesce(' default ' || typdefault, '')
        from pg_type where typtype = 'd' and oid >= 16384
        union all
        select 'range ' || rngtypid::regtype || ' ' || rngsubtype::regtype || ' ' || rngmultitypid::regtype
        from pg_range where rngtypid >= 16384
        union all
        select 'sequence ' || seqrelid::regclass || ' ' || seqtypid::regtype || ' '
            || concat_ws(' ', seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle)
            || coalesce(' of ' || d.refobjid::regclass || '.' || d.refobjsubid || ' ' || d.deptype::text, '')
        from pg_sequence left join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = seqrelid
          and d.deptype in ('a', 'i')
        union all
        select 'table ' || oid::regclass || ' says ' || obj_description(oid, 'pg_class') from pg_class
        where relkind in ('r', 'p') and obj_description(oid, 'pg_class') is not null and oid >= 16384
        union all
        select 'extension ' || extname from pg_extension";
    client.batch_execute("set search_path to ''").await.unwrap();
    let rows = client.query(LINES, &[]).await.unwrap();
    // The source keeps one extension in another schema than a target would.
    rows.iter().map(|row| row.get::<_, String>(0).replace("aux.hstore", "public.hstore")).collect()
}

#[tokio::test]
async fn a_nasty_schema_loads_as_printed_and_is_the_same_but_for_what_is_stated() {
    let cluster = Cluster::temp(ClusterOptions::default()).await.unwrap();
    let source = database(&cluster, "source", NASTY).await;
    let target = database(&cluster, "target", "").await;
    let script = schema::sql(&source, &nasty_selection()).await.unwrap();
    psql(&cluster.url("target"), &script).unwrap_or_else(|said| panic!("{said}\n{script}"));

    let (there, here) = (described(&source).await, described(&target).await);
    let stated = |line: &String| {
        let left_out = [
            "lockstep.journal",
            "public.supabase_sync_state",
            "public.computed_key",
            "public.forgetful",
            "public.late_key",
            "public.no_identity",
            "public.no_key",
            "no_key_id_key",
            "forgetful_pkey",
            "late_key_pkey",
            "no_identity_pkey",
            "computed_key_pkey",
            // what calls a function of the user's, or is not validated
            "code_is_a_code",
            "every_kind_user_function",
            "late_check",
            "egg_hen",
            "to_no_key",
        ];
        left_out.iter().any(|name| line.contains(name))
    };
    let missing: Vec<&String> = there.difference(&here).filter(|line| !stated(line)).collect();
    assert_eq!(
        missing,
        [
            "column public.every_kind.code text default public.next_code()",
            "column public.every_kind.id bigint not null identity a",
        ],
        "{script}"
    );
    let added: Vec<&String> = here.difference(&there).collect();
    assert_eq!(
        added,
        ["column public.every_kind.code text", "column public.every_kind.id bigint not null identity d"],
        "{script}"
    );
    for left_out in ["late_check", "code_is_a_code", "egg_hen", "to_no_key", "every_kind_user_function", "next_code()"]
    {
        let said = script.lines().any(|line| line.trim_start().starts_with("--") && line.contains(left_out));
        assert!(said, "nothing is said of {left_out}\n{script}");
    }
}

#[tokio::test]
async fn the_script_may_run_twice_and_is_the_same_each_time_it_is_printed() {
    let cluster = Cluster::temp(ClusterOptions::default()).await.unwrap();
    let source = database(&cluster, "source", NASTY).await;
    let target = database(&cluster, "target", "").await;
    let script = schema::sql(&source, &nasty_selection()).await.unwrap();
    assert_eq!(schema::sql(&source, &nasty_selection()).await.unwrap(), script);
    psql(&cluster.url("target"), &script).unwrap();
    target.batch_execute("insert into public.date (id) values (1)").await.unwrap();
    let before = described(&target).await;
    psql(&cluster.url("target"), &script).unwrap();
    assert_eq!(described(&target).await, before);
    let rows = target.query_one("select count(*) from public.date", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn rows_of_the_source_fit_into_what_was_made() {
    let cluster = Cluster::temp(ClusterOptions::default()).await.unwrap();
    let source = database(&cluster, "source", NASTY).await;
    let target = database(&cluster, "target", "").await;
    let script = schema::sql(&source, &nasty_selection()).await.unwrap();
    psql(&cluster.url("target"), &script).unwrap();
    source.batch_execute(NASTY_ROWS).await.unwrap();
    let all_rows = r#"select jsonb_build_object(
        'every_kind', (select jsonb_agg(to_jsonb(t) order by id) from public.every_kind t),
        'select', (select jsonb_agg(to_jsonb(t) order by "user") from "Odd ""Schema"".x"."select" t),
        'measure', (select jsonb_agg(to_jsonb(t) || jsonb_build_object('in', t.tableoid::regclass::text)
                    order by id) from public.measure t),
        'row_holder', (select jsonb_agg(to_jsonb(t) order by id) from public.row_holder t))::text"#;
    for (table, columns) in [
        (
            "public.every_kind",
            "id, by_default, code, mood, moods, list, small, smalls, point, points, nest, prices, \
                               many_prices, email, tags, net, doc",
        ),
        (r#""Odd ""Schema"".x"."select""#, r#""user", "Order By", "a.b", "quo""te", "🙂""#),
        ("public.measure", "at, site, id, value"),
        ("public.row_holder", "id, held, held_many"),
    ] {
        // Every value travels as text, as it does in replication.
        let copy = Command::new("sh")
            .arg("-c")
            .arg(r#"psql -Xq -v ON_ERROR_STOP=1 "$1" -c "copy (select $4 from $3) to stdout" | psql -Xq -v ON_ERROR_STOP=1 "$2" -c "copy $3 ($4) from stdin""#)
            .args(["sh", &cluster.url("source"), &cluster.url("target"), table, columns])
            .output()
            .unwrap();
        assert!(copy.status.success(), "{table}: {}", String::from_utf8_lossy(&copy.stderr));
    }
    let there: String = source.query_one(all_rows, &[]).await.unwrap().get(0);
    let here: String = target.query_one(all_rows, &[]).await.unwrap().get(0);
    // Volatile defaults, and what was not copied, differ; everything else is the same.
    let plain = |text: &str| {
        let mut all: serde_json::Value = serde_json::from_str(text).unwrap();
        for row in all["every_kind"].as_array_mut().unwrap() {
            for column in ["uuid_one", "uuid_two", "at", "serial_one", "serial_big"] {
                row.as_object_mut().unwrap().remove(column);
            }
        }
        all
    };
    assert_eq!(plain(&here), plain(&there));
}

const NASTY_ROWS: &str = r#"
    insert into "Odd ""Schema"".x"."select" ("user", "Order By", "a.b", "quo""te") values ('u', 5, 'a\b', '{b,A}');
    insert into public.every_kind (mood, moods, list, small, smalls, point, points, nest, prices, many_prices, email, tags, net)
    values ('$$', '{"so, so","ünïcødé 🙂"}', '{ok}', 5, '{1,2}', '(1.5,3,"a,b")', '{"(1,2,x)"}',
            '("(1,2,y)","{ok}","2026-01-01 00:00:00+00")', '[1,2)', '{[1,2),[5,6)}', 'A@b', 'a=>1', 3);
    insert into public.every_kind (net, code) values (1, 'c1'), (2, 'c2');
    insert into public.measure (at, site, value)
    values ('2025-06-01', 'x', 1), ('2026-06-01', 'it''s', 2), ('2026-06-01', 'other', 3), ('2030-01-01', 'y', null);
    insert into public.row_holder values (1, row (1, '2026-01-01', now()), array[row (2, null, null)::public.date]);
"#;

#[tokio::test]
async fn in_supabase_service_role_may_write_and_strangers_see_nothing() {
    let cluster = Cluster::temp(ClusterOptions::default()).await.unwrap();
    let source = database(&cluster, "source", NASTY).await;
    let supabase = Supabase::temp(SupabaseOptions::default()).await.unwrap();
    let script = schema::sql(&source, &nasty_selection()).await.unwrap();
    psql(&supabase.database_url(), &script).unwrap_or_else(|said| panic!("{said}\n{script}"));
    let owner = supabase.connect_owner().await.unwrap();
    let one = async |sql: &str| owner.query_one(sql, &[]).await.unwrap().get::<_, String>(0);
    let homes = "select string_agg(distinct extnamespace::regnamespace::text, ',') from pg_extension
                 where extname in ('citext', 'hstore', 'uuid-ossp', 'btree_gist')";
    assert_eq!(one(homes).await, "extensions");
    let write = "set role service_role;
        insert into public.measure (at, site, value) values ('2026-06-01', 'north', 1);
        insert into aux.\"measure 2026 'north'\" (at, site, id) values ('2026-06-02', 'north', 9);
        insert into public.shares_one default values; update public.shares_one set id = 11;
        delete from public.shares_one; truncate public.hen; reset role";
    owner.batch_execute(write).await.unwrap();
    let naked = "select coalesce(string_agg(oid::regclass::text, ','), 'none') from pg_class
                 where relkind in ('r', 'p') and not relrowsecurity and oid >= 16384
                   and relnamespace::regnamespace::text in ('public', 'aux', '\"Odd \"\"Schema\"\".x\"')";
    assert_eq!(one(naked).await, "none");
    assert_eq!(one("select count(*)::text from public.measure").await, "2");
    for stranger in ["anon", "authenticated"] {
        owner.batch_execute(&format!("set role {stranger}")).await.unwrap();
        assert_eq!(one("select count(*)::text from public.measure").await, "0", "{stranger} sees rows");
        assert_eq!(one("select count(*)::text from public.measure_2026").await, "0", "{stranger} sees a partition");
        owner.batch_execute("reset role").await.unwrap();
    }
}

#[tokio::test]
async fn a_name_cannot_leave_the_comment_it_stands_in() {
    let cluster = Cluster::temp(ClusterOptions::default()).await.unwrap();
    let evil = "create table public.\"x\ndrop table public.victim;\n--\" (note text);
                create function public.f() returns integer language sql as 'select 1';
                create table public.good (id integer primary key,
                    \"y\ndrop table public.victim;\n--\" integer default public.f());
                create table public.more (id integer primary key, constraint \"z\ndrop table public.victim;\n--\"
                    check (id > public.f()));";
    let source = database(&cluster, "source", evil).await;
    let target = database(&cluster, "target", "create table public.victim (id integer)").await;
    let script = schema::sql(&source, &Selection::default()).await.unwrap();
    psql(&cluster.url("target"), &script).unwrap_or_else(|said| panic!("{said}\n{script}"));
    let there = target.query_one("select to_regclass('public.victim') is not null", &[]).await.unwrap();
    assert!(there.get::<_, bool>(0), "{script}");
}

#[tokio::test]
async fn a_survey_says_why_a_table_stays_behind() {
    let cluster = Cluster::temp(ClusterOptions::default()).await.unwrap();
    let source = database(&cluster, "source", NASTY).await;
    source.batch_execute("insert into public.hen values (1), (2), (3); analyze public.hen").await.unwrap();
    source
        .batch_execute(
            "insert into public.measure select '2026-02-01', 'north', i from generate_series(1, 50) i; analyze",
        )
        .await
        .unwrap();
    let survey = catalog::survey(&source, &nasty_selection()).await.unwrap();
    let why: Vec<(String, Why)> = survey.left_out.iter().map(|out| (out.table.to_string(), out.why)).collect();
    let expected = [
        ("lockstep.journal", Why::Ours),
        ("public.computed_key", Why::GeneratedKey),
        ("public.forgetful", Why::Unlogged),
        ("public.late_key", Why::DeferrableKey),
        ("public.no_identity", Why::NoIdentity),
        ("public.no_key", Why::NoPrimaryKey),
        ("public.supabase_sync_state", Why::Ours),
    ];
    assert_eq!(why, expected.map(|(name, why)| (name.to_owned(), why)));
    let find = |name: &str| survey.tables.iter().find(|table| table.name.name == name).unwrap();
    assert_eq!(find("select").key, ["Order By", "user"], "in the key's order");
    assert_eq!((find("hen").estimated_rows, find("measure").estimated_rows), (3, 50));
    let kinds = &find("every_kind").columns;
    assert!(kinds.iter().all(|column| !["gross", "Gross Text", "search", "dropped"].contains(&column.name.as_str())));
    let spelled = |name: &str| kinds.iter().find(|column| column.name == name).unwrap().type_name.clone();
    assert_eq!(
        (spelled("fixed"), spelled("bits"), spelled("net")),
        ("bpchar".into(), "\"bit\"".into(), "numeric".into())
    );
    assert!(
        survey.tables.iter().all(|table| !table.name.name.starts_with("measure_")),
        "partitions travel by the root"
    );
    assert!(survey.tables.iter().any(|table| table.name.name == "truck"), "a child by inheritance is a table");
}

#[tokio::test]
async fn a_table_that_was_asked_for_and_cannot_be_had_is_refused_with_the_fix() {
    let cluster = Cluster::temp(ClusterOptions::default()).await.unwrap();
    let source = database(&cluster, "source", NASTY).await;
    for (name, cause, fix) in [
        ("no_key", "has no primary key", "add primary key"),
        ("forgetful", "is unlogged", "alter table \"public\".\"forgetful\" set logged;"),
        ("eg", "there is no table `eg`", "did you mean `egg`?"),
        ("zzz", "there is no table `zzz`", "choose a table that exists in public"),
    ] {
        let selection = Selection { include: vec![name.to_owned()], ..Selection::default() };
        let Err(Fault::Stop { cause: said, fix: told }) = catalog::tables(&source, &selection).await else {
            panic!("{name} was not refused");
        };
        assert!(said.contains(cause) && told.contains(fix), "{said} / {told}");
    }
}
