//! `lockstep setup` installs once however often it runs, lets nobody in but service_role, and leaves nothing behind.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on fails right there

use std::process::{Command, Output, Stdio};

use lockstep::lab::{Cluster, ClusterOptions, Owner, Supabase, SupabaseOptions};
use lockstep::ledger::install::{self, Migration};
use lockstep::ledger::{runs, source, sync_state, teardown};
use lockstep::types::{Fault, TableName};
use tokio_postgres::Client;

/// A line for everything in the database and its cluster that setup could touch, rights included.
async fn fingerprint(client: &Client) -> Vec<String> {
    const LINES: &str = "
        select 'schema ' || nspname || ' ' || coalesce(nspacl::text, '-') line from pg_namespace
        where nspname !~ '^pg_(toast_)?temp'
        union all
        select 'relation ' || c.oid::regclass || ' ' || relkind::text || ' ' || coalesce(relacl::text, '-')
        from pg_class c where c.oid >= 16384 and c.relkind <> 't' and c.oid::regclass::text !~ 'pg_toast'
        union all
        select 'column ' || attrelid::regclass || '.' || attname || ' ' || format_type(atttypid, atttypmod)
        from pg_attribute join pg_class c on c.oid = attrelid where c.oid >= 16384 and c.relkind = 'r' and attnum > 0
        union all
        select 'function ' || oid::regprocedure || ' ' || md5(prosrc || coalesce(pg_get_function_sqlbody(oid), '')) || ' '
            || coalesce(proacl::text, '-') || ' ' || prosecdef || ' ' || coalesce(proconfig::text, '')
        from pg_proc where oid >= 16384
        union all
        select 'type ' || oid::regtype from pg_type where oid >= 16384
        union all
        select 'publication ' || pubname || ' ' || puballtables || ' ' || pubviaroot from pg_publication
        union all
        select 'published ' || prpubid || ' ' || prrelid::regclass from pg_publication_rel
        union all
        select 'slot ' || slot_name || ' ' || plugin from pg_replication_slots
        union all
        select 'default rights ' || defaclrole::regrole || ' ' || defaclnamespace::regnamespace || ' ' || defaclacl::text
        from pg_default_acl
        union all
        select 'role ' || rolname || ' ' || concat_ws(' ', rolsuper, rolcanlogin, rolreplication, rolbypassrls, rolconfig)
        from pg_roles
        union all
        select 'extension ' || extname from pg_extension";
    let mut lines: Vec<String> = client.query(LINES, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    lines.sort();
    lines
}

fn ours(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().filter(|line| line.contains("lockstep")).collect()
}

async fn versions(client: &Client) -> String {
    let sql =
        "select coalesce(string_agg(version || ' ' || installed_at, ', ' order by version), '') from lockstep.version";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

fn lockstep(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    // Nothing of the machine's own settings.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(std::env::temp_dir());
    command.args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn psql(url: &str, script: &str) -> Output {
    use std::io::Write;
    let mut psql = Command::new("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-", url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    psql.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    psql.wait_with_output().unwrap()
}

#[tokio::test]
async fn installing_twice_changes_nothing_and_pasting_is_the_same_as_applying() {
    let applied = Supabase::temp(SupabaseOptions::default()).await.unwrap();
    let pasted = Supabase::temp(SupabaseOptions::default()).await.unwrap();
    let url = applied.database_url();
    let first = lockstep(&["setup", "supabase", "--apply", "--database-url", &url]);
    assert!(first.status.success() && said(&first).contains("installed in"), "{}", said(&first));
    let owner = applied.connect_owner().await.unwrap();
    let (before, version) = (fingerprint(&owner).await, versions(&owner).await);

    let printed = lockstep(&["setup", "supabase", "--print"]);
    assert!(printed.status.success());
    for _ in 0..2 {
        let output = psql(&pasted.database_url(), &String::from_utf8(printed.stdout.clone()).unwrap());
        assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
    }
    let other = pasted.connect_owner().await.unwrap();
    let (by_hand, by_us) = (ours(fingerprint(&other).await), ours(before.clone()));
    assert_eq!(by_hand, by_us);
    assert!(by_us.iter().any(|line| line.starts_with("function lockstep_apply(bytea)")), "{by_us:#?}");

    let second = lockstep(&["setup", "supabase", "--apply", "--database-url", &url]);
    assert!(said(&second).contains("already installed"), "{}", said(&second));
    assert_eq!((fingerprint(&owner).await, versions(&owner).await), (before, version));
}

#[tokio::test]
async fn nobody_but_service_role_comes_in() {
    for who in [Owner::Plain, Owner::SetReplicationRole, Owner::Superuser] {
        let supabase = Supabase::temp(SupabaseOptions { owner: who, ..SupabaseOptions::default() }).await.unwrap();
        let owner = supabase.connect_owner().await.unwrap();
        install::apply(&owner).await.unwrap();
        let doors = [
            "select public.lockstep_hello('{\"route\": \"r\", \"source\": {}, \"tables\": []}')",
            "select public.lockstep_apply('')",
        ];
        let inside = ["select from lockstep.checkpoint", "select from lockstep.version", "delete from lockstep.copy"];
        for stranger in ["anon", "authenticated", "service_role"] {
            owner.batch_execute(&format!("set role {stranger}")).await.unwrap();
            for sql in inside.iter().chain(doors.iter().filter(|_| stranger != "service_role")) {
                let refused = owner.batch_execute(sql).await.unwrap_err();
                assert_eq!(refused.code().unwrap().code(), "42501", "{stranger}: {sql}: {refused}");
            }
            owner.batch_execute("reset role").await.unwrap();
        }
        let open = "select string_agg(p.oid::regprocedure || ' to ' || r.rolname, ', ') from pg_proc p, pg_roles r
                    where p.pronamespace in ('public'::regnamespace, 'lockstep'::regnamespace)
                      and p.oid::regprocedure::text ~ 'lockstep' and r.rolname in ('anon', 'authenticated')
                      and has_function_privilege(r.oid, p.oid, 'execute')";
        assert_eq!(owner.query_one(open, &[]).await.unwrap().get::<_, Option<String>>(0), None);
        owner.batch_execute("set role service_role").await.unwrap();
        owner.batch_execute(doors[0]).await.unwrap();
        owner.batch_execute("reset role").await.unwrap();
    }
}

#[tokio::test]
async fn over_https_the_key_of_service_role_opens_the_door_and_that_of_anon_does_not() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let supabase = Supabase::temp(SupabaseOptions::default()).await.unwrap();
    install::apply(&supabase.connect_owner().await.unwrap()).await.unwrap();
    let http = reqwest::Client::new();
    let knock = async |key: &str| {
        let url = format!("{}/rest/v1/rpc/lockstep_hello", supabase.rest_url());
        let mut request = http.post(url).header("apikey", key).header("content-type", "application/json");
        if key.starts_with("eyJ") {
            request = request.bearer_auth(key);
        }
        request
            .body(r#"{"request": {"route": "r", "source": {}, "tables": []}}"#)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    // The script's own notification reaches PostgREST a moment after the commit.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while knock(supabase.service_key()).await == 404 && std::time::Instant::now() < deadline {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(knock(supabase.service_key()).await, 200);
    assert_eq!(knock(supabase.secret_key()).await, 200);
    assert!([401, 403].contains(&knock(supabase.anon_key()).await));
}

/// The version that this Lockstep installs.
fn newest() -> i32 {
    install::MIGRATIONS.iter().map(|migration| migration.version).max().unwrap()
}

/// Version 1 as somebody's database has it, from before this Lockstep.
const VERSION_1_BY_HAND: &str = "
    create schema lockstep;
    create table lockstep.version (version int primary key, installed_at timestamptz not null default now());
    create table lockstep.checkpoint (route text primary key, major bigint not null, minor bigint not null,
        source jsonb not null default '{}', updated_at timestamptz not null default now());
    create table lockstep.copy (route text not null, schema_name text not null, table_name text not null, cursor jsonb,
        done boolean not null default false, rows bigint not null default 0,
        updated_at timestamptz not null default now(), primary key (route, schema_name, table_name));
    insert into lockstep.version (version) values (1);
    insert into lockstep.checkpoint values ('to_supabase', 77, 0)";

#[tokio::test]
async fn an_older_version_is_upgraded_once_with_its_state_kept_and_a_newer_one_is_refused() {
    let cluster = Cluster::temp(ClusterOptions::default()).await.unwrap();
    let client = cluster.connect().await.unwrap();
    client.batch_execute(VERSION_1_BY_HAND).await.unwrap();
    let state = async || {
        let sql = "select string_agg(to_jsonb(c)::text, ',') from lockstep.checkpoint c";
        client.query_one(sql, &[]).await.unwrap().get::<_, Option<String>>(0)
    };
    let kept = state().await;
    install::apply(&client).await.unwrap();
    let newest = newest();
    assert_eq!((state().await, install::installed(&client).await), (kept, Ok(Some(newest))));

    let later = Migration {
        version: newest + 1,
        sql: "alter table lockstep.checkpoint add column note text default 'it''s $$ new';\n\
              create function lockstep.two() returns text language sql as $two$ select 'two' $two$;\n",
    };
    let next = [install::MIGRATIONS, &[later]].concat();
    for _ in 0..2 {
        client.batch_execute(&install::script_of(&next)).await.unwrap();
    }
    assert_eq!(install::installed(&client).await, Ok(Some(newest + 1)));
    assert!(state().await.unwrap().contains("it's $$ new"));

    let before = (fingerprint(&client).await, versions(&client).await, state().await);
    let Err(Fault::Stop { cause, fix }) = install::apply(&client).await else { panic!("not refused") };
    let said = format!("at version {}", newest + 1);
    assert!(
        cause.contains(&said) && cause.contains(&format!("knows only {newest}")) && fix.contains("newer"),
        "{cause} / {fix}"
    );
    assert_eq!((fingerprint(&client).await, versions(&client).await, state().await), before);
}

#[tokio::test]
async fn a_migration_that_fails_leaves_the_version_before_it_whole() {
    let cluster = Cluster::temp(ClusterOptions::default()).await.unwrap();
    let client = cluster.connect().await.unwrap();
    install::apply(&client).await.unwrap();
    let before = (fingerprint(&client).await, versions(&client).await);
    let broken = Migration { version: newest() + 1, sql: "create table lockstep.half (a int); select 1 / 0;" };
    let next = [install::MIGRATIONS, &[broken]].concat();
    client.batch_execute(&install::script_of(&next)).await.unwrap_err();
    client.batch_execute("rollback").await.unwrap();
    assert_eq!((fingerprint(&client).await, versions(&client).await), before);
}

const SOURCE: &str = "
    create schema sales;
    create table public.a (id integer primary key);
    create table sales.\"B %I 'c'\" (id integer primary key);
    create table public.parent (id integer primary key);
    create table public.child (primary key (id)) inherits (public.parent);
    create table public.parted (id integer primary key) partition by range (id);
    create table public.parted_1 partition of public.parted for values from (0) to (10);
    create table public.keyless (id integer);
    create role reader login";

#[tokio::test]
async fn the_source_is_set_up_once_and_torn_down_to_what_it_was() {
    let cluster = Cluster::temp(ClusterOptions::default()).await.unwrap();
    let client = cluster.connect().await.unwrap();
    client.batch_execute(SOURCE).await.unwrap();
    let before = fingerprint(&client).await;
    let url = cluster.url("postgres");
    let schemas = ["--schema", "public", "--schema", "sales", "--role", "reader"];
    let setup = |mode: &str| lockstep(&[&["setup", "source", mode, "--database-url", &url], &schemas[..]].concat());

    let printed = setup("--print");
    assert!(printed.status.success() && said(&printed).contains("left out: public.keyless"), "{}", said(&printed));
    assert_eq!(fingerprint(&client).await, before, "printing changes nothing");
    let applied = setup("--apply");
    assert!(applied.status.success(), "{}", said(&applied));
    assert_eq!(printed.stdout, applied.stdout, "what was printed is what is done");

    let published = "select string_agg(schemaname || '.' || tablename, ',' order by schemaname, tablename)
                     from pg_publication_tables where pubname = 'lockstep'";
    let published: String = client.query_one(published, &[]).await.unwrap().get(0);
    assert_eq!(published, "public.a,public.child,public.parent,public.parted,sales.B %I 'c'");
    client.batch_execute("create table sales.later (id integer primary key)").await.unwrap();
    let reader = cluster.connect_as("reader", "postgres").await.unwrap();
    for sql in ["select from public.a", "select from sales.\"B %I 'c'\"", "select from sales.later"] {
        reader.batch_execute(sql).await.unwrap();
    }
    reader.batch_execute("insert into public.a values (1)").await.unwrap_err();
    // What Lockstep remembers there, it can write as this role.
    runs::ensure(&reader, true).await.unwrap();
    runs::begin(&reader, "job", "test", false, &[TableName::new("public", "a")]).await.unwrap();
    let state = sync_state::adopt(&reader, &TableName::new("public", "supabase_sync_state"), false).await.unwrap();
    assert!(state.rows.is_empty());
    let row = "insert into supabase_sync_state (table_name) values ('a'); update supabase_sync_state set sync_status = 'failed'";
    reader.batch_execute(row).await.unwrap();
    client.batch_execute("drop table sales.later").await.unwrap();

    let done = fingerprint(&client).await;
    let again = setup("--apply");
    assert!(said(&again).contains("nothing was missing"), "{}", said(&again));
    assert_eq!(fingerprint(&client).await, done);

    let away = ["setup", "teardown", "--apply", "--source-url", &url];
    let away = lockstep(&[&away, &schemas[..]].concat());
    assert!(away.status.success(), "{}", said(&away));
    // The table of sync states is for others to read, and stays.
    let rows: i64 = client.query_one("select count(*) from supabase_sync_state", &[]).await.unwrap().get(0);
    assert_eq!(rows, 1);
    client.batch_execute("drop table supabase_sync_state").await.unwrap();
    let plain = |lines: Vec<String>| -> Vec<String> {
        // A right that was granted and revoked leaves the owner's own written out, which means what it meant before.
        let own = ["{postgres=arwdDxt/postgres}", "{postgres=UC/postgres}"];
        lines.into_iter().map(|line| own.iter().fold(line, |line, own| line.replace(own, "-"))).collect()
    };
    assert_eq!(plain(fingerprint(&client).await), plain(before));
}

#[tokio::test]
async fn a_publication_that_lists_other_tables_is_brought_in_line() {
    let cluster = Cluster::temp(ClusterOptions::default()).await.unwrap();
    let client = cluster.connect().await.unwrap();
    client.batch_execute(SOURCE).await.unwrap();
    client
        .batch_execute("create publication lockstep for table public.parent with (publish = 'insert')")
        .await
        .unwrap();
    let wanted = source::Wanted {
        publication: "lockstep".into(),
        slot: "lockstep".into(),
        journal: false,
        role: None,
        state: None,
        tables: vec![TableName::new("public", "a"), TableName::new("public", "parted")],
    };
    let plan = source::plan(&wanted, &source::look(&client, &wanted).await.unwrap());
    source::apply(&client, &plan).await.unwrap();
    assert_eq!(source::plan(&wanted, &source::look(&client, &wanted).await.unwrap()), source::Plan::default());
    let row = "select pubviaroot and pubdelete and pubtruncate from pg_publication where pubname = 'lockstep'";
    assert!(client.query_one(row, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn a_slot_in_use_is_not_torn_down_and_nothing_else_is_either() {
    let cluster = Cluster::temp(ClusterOptions::default()).await.unwrap();
    let client = cluster.connect().await.unwrap();
    client.batch_execute("create publication lockstep for all tables").await.unwrap();
    client.batch_execute("select pg_create_logical_replication_slot('lockstep', 'pgoutput')").await.unwrap();
    let _reader = Command::new("pg_recvlogical")
        .args(["-d", &cluster.url("postgres"), "--slot", "lockstep", "--start", "-f", "/dev/null"])
        .args(["-o", "proto_version=1", "-o", "publication_names=lockstep"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(Reader)
        .unwrap();
    let active = async || cluster.value("select active from pg_replication_slots").await.unwrap() == "t";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !active().await {
        assert!(std::time::Instant::now() < deadline, "the reader did not start");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let before = fingerprint(&client).await;
    let refused = lockstep(&["setup", "teardown", "--apply", "--source-url", &cluster.url("postgres")]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("slot lockstep is in use by process"), "{}", said(&refused));
    assert_eq!(fingerprint(&client).await, before);
}

/// Ends with the test, however that ends.
struct Reader(std::process::Child);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn teardown_leaves_nothing_in_supabase_however_it_is_run() {
    let supabase = Supabase::temp(SupabaseOptions::default()).await.unwrap();
    let owner = supabase.connect_owner().await.unwrap();
    let before = fingerprint(&owner).await;
    install::apply(&owner).await.unwrap();
    assert_ne!(fingerprint(&owner).await, before);
    teardown::supabase(&owner).await.unwrap();
    assert_eq!(fingerprint(&owner).await, before);

    install::apply(&owner).await.unwrap();
    let printed = lockstep(&["setup", "teardown", "--print"]);
    let output = psql(&supabase.database_url(), &String::from_utf8(printed.stdout).unwrap());
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(fingerprint(&owner).await, before);
    teardown::supabase(&owner).await.unwrap();
}

#[tokio::test]
async fn bad_usage_ends_with_2_and_a_refusal_with_1_and_neither_shows_a_password() {
    let cluster = Cluster::temp(ClusterOptions::default().set("wal_level", "replica")).await.unwrap();
    cluster.execute(SOURCE).await.unwrap();
    let url = cluster.url("postgres");
    for (arguments, code, word) in [
        (&["setup", "supabase"][..], 2, "--print"),
        (&["setup", "supabase", "--apply"], 2, "--database-url"),
        (&["setup", "supabase", "--apply", "--database-url", "http://x:hunter2@y"], 2, "postgresql://"),
        (&["setup", "teardown", "--apply"], 2, "--source-url"),
        (&["schema"], 2, "DATABASE_URL"),
        (&["setup", "source", "--apply", "--database-url", &url], 1, "alter system set wal_level = logical"),
        (&["setup", "source", "--print", "--database-url", &url], 0, "alter system set wal_level = logical"),
        (&["schema", "--database-url", &url, "--table", "keyless"], 1, "has no primary key"),
        (&["schema", "--database-url", &url, "--schema", "nowhere"], 1, "no table that can be replicated"),
    ] {
        let output = lockstep(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(word), "{arguments:?}: {}", said(&output));
        assert!(!said(&output).contains(cluster.password()), "{}", said(&output));
    }
}
