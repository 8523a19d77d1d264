//! `lockstep doctor` on what statements cannot break: the key, the address, the settings, our SQL, a running service; and
//! what `--fix` runs.

use std::os::unix::fs::PermissionsExt;

use lockstep::lab::ClusterOptions;
use lockstep::ledger::install;
use lockstep::pg::Url;
use lockstep::pg::replication::Connection;
use lockstep::types::Lsn;
use serde_json::Value;

use crate::doctor::{at_source, examine, healthy, to_mend, troubles};
use crate::rig::{Rig, until};

/// What is named, in one line, with its fix; fails when it is not exactly this, or the exit code another.
async fn named(rig: &Rig, codes: &[&str], exit: i32) -> String {
    let (code, report) = examine(rig, &[]).await;
    assert_eq!(self::codes(&report), codes, "{:#?}", troubles(&report));
    assert_eq!(code, Some(exit), "{:#?}", troubles(&report));
    troubles(&report).join("\n")
}

fn codes(report: &Value) -> Vec<&str> {
    to_mend(report).iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

async fn green(rig: &Rig) {
    named(rig, &[], 0).await;
}

fn set(rig: &mut Rig, name: &str, value: &str) {
    rig.env = vec![(name.into(), value.into())];
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_an_address_or_a_door_that_does_not_lead_in_is_named_and_what_leads_in_is_said() {
    let mut rig = healthy(ClusterOptions::default()).await;
    let publishable = rig.pair.supabase.publishable_key().to_owned();
    set(&mut rig, "SUPABASE_KEY", &publishable);
    let said = named(&rig, &["target-key"], 2).await;
    assert!(said.contains("publishable") && said.contains("sb_secret_"), "{said}");
    set(&mut rig, "SUPABASE_KEY", "sb_secret_of_another_project");
    let said = named(&rig, &["target-key"], 2).await;
    assert!(said.contains("Supabase refused the key") && said.contains("Project Settings > API Keys"), "{said}");
    set(&mut rig, "SUPABASE_URL", "http://127.0.0.1:1");
    let said = named(&rig, &["target-reach"], 2).await;
    assert!(said.contains("127.0.0.1:1") && said.contains("SUPABASE_URL"), "{said}");
    set(&mut rig, "DATABASE_URL", "postgres://postgres@127.0.0.1:1/postgres");
    let said = named(&rig, &["source-reach"], 2).await;
    assert!(said.contains("cannot reach 127.0.0.1:1"), "{said}");
    rig.env.clear();

    let admin = &rig.pair.supabase.cluster;
    admin.execute("alter role authenticator set pgrst.db_schemas = 'extensions'").await.unwrap();
    admin.execute("notify pgrst, 'reload config'").await.unwrap();
    rig.pair.supabase.reload_schema().await.unwrap();
    let said = named(&rig, &["exposed"], 1).await;
    assert!(said.contains("add public to the exposed schemas"), "{said}");
    admin.execute("alter role authenticator set pgrst.db_schemas = 'extensions, public'").await.unwrap();
    admin.execute("notify pgrst, 'reload config'").await.unwrap();
    rig.pair.supabase.reload_schema().await.unwrap();
    green(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_sql_that_is_missing_or_altered_or_not_seen_by_postgrest_is_named_and_installing_it_mends_it() {
    let rig = healthy(ClusterOptions::default()).await;
    let supabase = &rig.pair.supabase;
    let script = install::script();
    let drop =
        "drop function public.lockstep_apply(bytea), public.lockstep_hello(jsonb), public.lockstep_examine(jsonb)";
    supabase.execute(drop).await.unwrap();
    supabase.execute("alter table plain drop column body").await.unwrap();
    // Without our SQL, PostgREST's own description still tells of tables and columns.
    let said = named(&rig, &["installed", "column-missing"], 1).await;
    assert!(said.contains("lockstep setup supabase --print") && said.contains("add column \"body\" text"), "{said}");
    supabase.execute("alter table plain add column body text").await.unwrap();
    // Installed, and PostgREST has not heard of it.
    let owner = supabase.connect_owner().await.unwrap();
    owner.batch_execute(&script.replace("notify pgrst, 'reload schema';", "")).await.unwrap();
    let direct = supabase.database_url();
    let (code, report) = examine(&rig, &["--database-url", &direct]).await;
    assert_eq!((code, codes(&report)), (Some(1), vec!["installed"]), "{:#?}", troubles(&report));
    assert!(troubles(&report)[0].contains("schema cache is stale: in Supabase: notify pgrst, 'reload schema';"));
    supabase.reload_schema().await.unwrap();
    green(&rig).await;

    owner.batch_execute("alter function public.lockstep_apply(bytea) reset statement_timeout").await.unwrap();
    let said = named(&rig, &["doors-settings"], 1).await;
    assert!(said.contains("lockstep_apply") && said.contains("lockstep setup supabase --print"), "{said}");
    supabase.execute(&script).await.unwrap();
    green(&rig).await;
    owner.batch_execute("insert into lockstep.version values (99)").await.unwrap();
    let said = named(&rig, &["installed-version"], 1).await;
    assert!(said.contains("version 99, newer than") && said.contains("install the lockstep that"), "{said}");
    owner.batch_execute("delete from lockstep.version where version = 99").await.unwrap();
    let others = r#"insert into lockstep.checkpoint (route, major, minor, source)
        values ('to_supabase', 5, 0, '{"system": "1", "slot": "lockstep"}')"#;
    owner.batch_execute(others).await.unwrap();
    let said = named(&rig, &["another-source"], 1).await;
    assert!(said.contains("a copy of another source (system identifier 1)"), "{said}");
    owner.batch_execute("delete from lockstep.checkpoint").await.unwrap();
    green(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_settings_name_and_is_not_so_is_named_with_the_line_that_mends_it() {
    let mut rig = healthy(ClusterOptions::default()).await;
    let file = rig.dir.path().join("lockstep.toml");
    for (broken, code, line) in [
        ("create table keyless (id int)", "no-key", r#"tables.exclude = ["public.keyless"]"#),
        ("create materialized view sums as select 1", "not-tables", r#"tables.exclude = ["public.sums"]"#),
    ] {
        at_source(&rig, broken).await;
        let said = named(&rig, &[code], 1).await;
        assert!(said.contains(line), "{said}");
        std::fs::write(&file, line).unwrap();
        green(&rig).await;
        std::fs::remove_file(&file).unwrap();
        at_source(&rig, "drop table if exists keyless;; drop materialized view if exists sums").await;
    }
    std::fs::write(&file, "[table.\"public.nowhere\"]\ncolumns = [\"id\"]\n").unwrap();
    let said = named(&rig, &["tables-chosen"], 1).await;
    assert!(said.contains("[table.\"public.nowhere\"] is about a table that is not replicated"), "{said}");
    std::fs::write(&file, "[tables]\nexlude = []\n").unwrap();
    let (code, _, error) = rig.verb(&["doctor"]).await;
    assert_eq!(code, Some(2));
    assert!(error.contains("tables.exlude in lockstep.toml: there is no such setting; did you mean"), "{error}");
    std::fs::remove_file(&file).unwrap();

    let dotenv = rig.dir.path().join(".env");
    std::fs::write(&dotenv, "LOCKSTEP_TOKEN=0123456789abcdef0123\n").unwrap();
    std::fs::set_permissions(&dotenv, PermissionsExt::from_mode(0o644)).unwrap();
    let said = named(&rig, &["secrets-readable"], 1).await;
    let fix = said.rsplit(": ").next().unwrap();
    let ran = std::process::Command::new("sh").args(["-c", fix]).current_dir(rig.dir.path()).status().unwrap();
    assert!(ran.success(), "{said}");
    green(&rig).await;

    let taken = std::net::TcpListener::bind(("127.0.0.1", rig.http)).unwrap();
    let said = named(&rig, &["listen"], 1).await;
    assert!(said.contains("LOCKSTEP_LISTEN"), "{said}");
    set(&mut rig, "LOCKSTEP_LISTEN", "127.0.0.1:0");
    green(&rig).await;
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_service_is_no_trouble_and_what_became_of_its_slot_is_told() {
    let mut rig = healthy(ClusterOptions::default()).await;
    rig.start();
    rig.settled().await;
    let (code, report) = examine(&rig, &[]).await;
    assert_eq!((code, troubles(&report)), (Some(0), Vec::new()));
    let what = |code: &str| {
        let all = report["findings"].as_array().unwrap();
        all.iter().find(|finding| finding["code"] == code).unwrap()["what"].as_str().unwrap().to_owned()
    };
    assert_eq!(what("listen"), "a Lockstep is running there");
    assert!(what("slot-used").starts_with("Lockstep reads the slot"), "{}", what("slot-used"));
    assert!(what("sequences").starts_with("1 behind their columns"), "{}", what("sequences"));
    rig.terminate().await;

    // Somebody else reads it.
    let url = Url::parse(&rig.source_url).unwrap();
    let thief = Connection::open(&url, "thief").await.unwrap();
    let stream = thief.start("lockstep", "lockstep", Lsn(0)).await.unwrap();
    let (code, report) = examine(&rig, &[]).await;
    assert_eq!((code, codes(&report)), (Some(1), vec!["slot-used"]), "{:#?}", troubles(&report));
    assert!(troubles(&report)[0].contains("(thief): at the source: select pg_terminate_backend("));
    at_source(&rig, to_mend(&report)[0]["fix"]["sql"][0].as_str().unwrap()).await;
    until("the slot is free", async || {
        rig.pair.source.value("select active from pg_replication_slots").await.unwrap() == "f"
    })
    .await;
    drop(stream);
    green(&rig).await;

    at_source(&rig, "select pg_drop_replication_slot('lockstep')").await;
    let said = named(&rig, &["history"], 1).await;
    assert!(said.contains("the slot is gone from the source: start Lockstep"), "{said}");
    rig.start();
    rig.settled().await;
    green(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fix_runs_what_takes_nothing_away_on_both_sides_and_leaves_the_rest_to_people() {
    let rig = healthy(ClusterOptions::default()).await;
    at_source(&rig, "alter type mood add value 'top';; alter table plain replica identity nothing").await;
    let broken = "alter table parent drop column note; revoke insert on child from service_role;
        alter table child add constraint short check (length(body) < 5); drop table parts";
    rig.pair.supabase.execute(broken).await.unwrap();
    let before = ["identity", "enum-labels", "table-missing", "column-missing", "checks", "target-rights"];
    named(&rig, &before, 1).await;

    // Without a direct connection, Supabase is not touched.
    let (_, out, _) = rig.verb(&["doctor", "--fix"]).await;
    assert!(out.contains("fixed identity, at the source: alter table \"public\".\"plain\" replica identity"), "{out}");
    named(&rig, &before[1..], 1).await;
    let direct = rig.pair.supabase.database_url();
    let (code, out, error) = rig.verb(&["doctor", "--fix", "--database-url", &direct]).await;
    assert_eq!(code, Some(1), "{out}{error}");
    let last = out.lines().last().unwrap();
    assert!(last.ends_with(" ok, 1 to fix"), "{out}");
    named(&rig, &["checks"], 1).await;
}
