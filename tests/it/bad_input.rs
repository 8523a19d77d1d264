//! What happens when a newcomer gets it wrong: one message that names the thing and the fix, nothing half done, and
//! the fix, carried out as it was printed, leads on.

use lockstep::lab::{ClusterOptions, Owner, PairOptions, Port, Stop, SupabaseOptions};
use lockstep::pg::Url;
use lockstep::pg::replication::Connection;

use super::rig::{PATIENCE, Rig, public, says_nothing_of_a_journal, until};

const TABLES: &str = "create table person (id int primary key, name text not null);
    create table note (a int, b text, body text, primary key (a, b))";
const ROWS: &str = "insert into person values (1, 'Ada'), (2, 'Grace'); insert into note values (1, 'x', 'y')";

/// With an owner as on Supabase, so that nothing is to be warned of.
pub fn supabase() -> SupabaseOptions {
    SupabaseOptions { owner: Owner::SetReplicationRole, ..SupabaseOptions::default() }
}

async fn rig(options: PairOptions) -> Rig {
    let rig = Rig::with(options, TABLES).await;
    rig.pair.source.execute(ROWS).await.unwrap();
    rig
}

async fn plain() -> Rig {
    rig(PairOptions { supabase: supabase(), ..PairOptions::default() }).await
}

type Env<'a> = [(&'a str, String)];

/// `lockstep run` ends with this code and one message, shows no secret and leaves nothing behind.
pub async fn refused(rig: &Rig, env: &Env<'_>, code: i32) -> String {
    let output = rig.command(&["run"]).envs(env.iter().map(|(name, value)| (name, value))).output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("the service ends").unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{env:?} said: {said}");
    let start = said.find("error: ").expect(&said);
    let message = said[start..].trim_end().to_owned();
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    for noise in ["panicked", "backtrace", " ERROR ", " WARN "] {
        assert!(!said.contains(noise), "{said}");
    }
    if code == 2 {
        assert_eq!((start, message.lines().count()), (0, 1), "{said}");
    } else {
        let fixes = message.lines().filter(|line| line.starts_with("  fix: ")).count();
        assert_eq!(
            (fixes, message.lines().nth(1).is_some_and(|line| line.starts_with("  fix: "))),
            (1, true),
            "{said}"
        );
    }
    no_secrets(rig, env, &said);
    nothing_half_done(rig).await;
    message
}

fn no_secrets(rig: &Rig, env: &Env<'_>, said: &str) {
    let supabase = &rig.pair.supabase;
    let given = env.iter().filter(|(name, _)| *name == "SUPABASE_KEY").map(|(_, key)| key.as_str());
    let ours = [rig.pair.source.password(), supabase.secret_key(), supabase.service_key(), "hush"];
    for secret in given.chain(ours) {
        assert!(!said.contains(secret), "it shows a secret: {said}");
    }
}

async fn nothing_half_done(rig: &Rig) {
    let made = "select (select count(*) from pg_replication_slots where slot_name = 'lockstep')
                     + (select count(*) from pg_publication where pubname = 'lockstep')";
    assert_eq!(rig.pair.source.value(made).await.unwrap(), "0", "a slot or a publication was left");
    let target = &rig.pair.supabase.cluster;
    if target.value("select to_regclass('lockstep.checkpoint') is not null").await.unwrap() == "t" {
        let moved = "select count(*) from lockstep.checkpoint where (major, minor) <> (0, 0)";
        assert_eq!(target.value(moved).await.unwrap(), "0", "the checkpoint moved");
        assert_eq!(target.value("select count(*) from lockstep.copy").await.unwrap(), "0", "a copy began");
    }
}

/// The statement of a fix, as it stands there.
pub fn statement(message: &str) -> String {
    let fix = &message[message.find("fix: ").expect(message) + 5..];
    let verbs = ["alter ", "create ", "grant ", "select ", "truncate ", "drop "];
    let start = verbs.iter().filter_map(|verb| fix.find(verb)).min().expect(message);
    let sql = &fix[start..];
    sql[..sql.find(";\n").or_else(|| sql.find("; or")).or_else(|| sql.find("; then")).unwrap_or(sql.len())].to_owned()
}

fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

async fn runs(rig: &mut Rig) {
    rig.start();
    rig.settled().await;
    rig.assert_equal(&public(&["person", "note"])).await;
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_address_role_password_or_key_is_named_and_the_right_ones_run() {
    let mut rig = plain().await;
    let source = &rig.pair.source;
    let database =
        |user: &str, password: &str, database: &str| [("DATABASE_URL", source.url_as(user, password, database))];
    let password = source.password().to_owned();
    let said = refused(&rig, &database("postgres", "hush", "postgres"), 1).await;
    says(&said, &["password of user postgres", "alter role \"postgres\" password"]);
    let said = refused(&rig, &database("nobody", "hush", "postgres"), 1).await;
    says(&said, &["user nobody", "127.0.0.1"]);
    let said = refused(&rig, &database("postgres", &password, "shop"), 1).await;
    says(&said, &["no database shop", "create database \"shop\""]);
    let no_password = format!("postgresql://postgres@127.0.0.1:{}/postgres", source.port());
    says(&refused(&rig, &[("DATABASE_URL", no_password)], 1).await, &["asks for a password"]);

    let key = |key: &str| [("SUPABASE_KEY", key.to_owned())];
    let said = refused(&rig, &key("sb_secret_wrong_hush"), 1).await;
    says(&said, &["refused the key", "Invalid API key", "set SUPABASE_KEY"]);
    let service = rig.pair.supabase.service_key().to_owned();
    let forged = format!("{}{}", &service[..service.len() - 6], "AAAAAA");
    says(&refused(&rig, &key(&forged), 1).await, &["refused the key", "set SUPABASE_KEY"]);
    let past = r#"{"role":"service_role","exp":1700000000}"#;
    says(&refused(&rig, &key(&jwt(past)), 2).await, &["SUPABASE_KEY", "expired at 2023-11-14"]);
    says(&refused(&rig, &key(rig.pair.supabase.publishable_key()), 2).await, &["publishable", "sb_secret_"]);
    says(&refused(&rig, &key(rig.pair.supabase.anon_key()), 2).await, &["`anon` key", "sb_secret_"]);

    let url = |url: String| [("SUPABASE_URL", url)];
    let right = rig.pair.supabase.rest_url();
    let said = refused(&rig, &url(format!("{right}/rest/v1")), 2).await;
    says(&said, &["SUPABASE_URL", "leave the path `/rest/v1` off", &right]);
    for page in
        ["HTTP/1.1 404 Not Found", "HTTP/1.1 200 OK", "HTTP/1.1 301 Moved\r\nlocation: https://elsewhere.example"]
    {
        let other = a_web_server(page).await;
        let said = refused(&rig, &url(format!("http://127.0.0.1:{other}")), 1).await;
        says(&said, &["not a Supabase project", "set SUPABASE_URL"]);
    }
    // The legacy key is a right one too.
    rig.env = vec![("SUPABASE_KEY".into(), service)];
    runs(&mut rig).await;
}

fn jwt(claims: &str) -> String {
    use base64::Engine;
    let text = |text: &str| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", text(r#"{"alg":"HS256","typ":"JWT"}"#), text(claims), text("hush"))
}

/// Answers everything with the same page.
async fn a_web_server(head: &'static str) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let _ = client.read(&mut [0; 65_536]).await;
            let page = "<html>\n<h1>Welcome</h1></html>";
            let answer = format!("{head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}", page.len());
            let _ = client.write_all(answer.as_bytes()).await;
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_are_one_line_and_a_taken_port_is_named() {
    let rig = plain().await;
    let file = rig.dir.path().join("lockstep.toml");
    for (toml, words) in [
        ("[tables]\nschema = [\"public\"]\n", ["tables.schema in lockstep.toml", "did you mean `schemas`?"]),
        ("[tables\n", ["lockstep.toml, line 1", ""]),
        ("[http]\nlisten = \"localhost\"\n", ["LOCKSTEP_LISTEN", ""]),
        ("[retry]\nlook_again = \"60\"\n", ["retry.look_again", "not a duration such as"]),
    ] {
        std::fs::write(&file, toml).unwrap();
        let listen = if toml.contains("listen") { "nowhere" } else { "127.0.0.1:1" };
        says(&refused(&rig, &[("LOCKSTEP_LISTEN", listen.into())], 2).await, &words);
    }
    std::fs::remove_file(&file).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = refused(&rig, &[("LOCKSTEP_LISTEN", address.clone())], 1).await;
    says(&said, &[&format!("cannot listen on {address}"), "LOCKSTEP_LISTEN"]);
    for bad in ["u:a?hush@h/d", "u:a/hush@h", "u:hush/d"] {
        let url = format!("postgres://{bad}");
        says(&refused(&rig, &[("DATABASE_URL", url.clone())], 2).await, &["DATABASE_URL in the environment"]);
        let flag = format!("--database-url={url}");
        for args in [
            &["setup", "supabase", "--apply", "--database-url", url.as_str()][..],
            &["setup", "supabase", "--apply", &flag],
            &["setup", "teardown", "--apply", "--source-url", &url],
            &["schema", "--database-url", &url],
            &["setup", &url],
            &["run", &flag],
        ] {
            let (code, out, err) = rig.verb(args).await;
            assert!(code == Some(2) && !format!("{out}{err}").contains("hush"), "{args:?}: {code:?} {out}{err}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_a_role_lacks_at_the_source_are_granted_as_printed_until_it_runs() {
    if says_nothing_of_a_journal("it needs other rights, which the doctor names") {
        return;
    }
    let mut rig = plain().await;
    let source = &rig.pair.source;
    source.execute("create role reader login password 'hush'; revoke all on schema public from public").await.unwrap();
    rig.source_url = source.url_as("reader", "hush", "postgres");
    for words in [
        [
            "role reader may not read public.note, public.person",
            "grant usage on schema \"public\" to \"reader\"; grant select on",
        ],
        ["does not let user reader replicate", "alter role \"reader\" replication"],
        ["may not create publication lockstep", "as the owner of the tables"],
    ] {
        let said = refused(&rig, &[], 1).await;
        says(&said, &words);
        rig.pair.source.execute(&statement(&said)).await.unwrap();
        if words[1].contains("owner") {
            break;
        }
    }
    runs(&mut rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_replicate_says_which_setting_is_in_the_way() {
    if says_nothing_of_a_journal("it needs none of these settings") {
        return;
    }
    let set = |name, value| PairOptions { source: ClusterOptions::default().set(name, value), supabase: supabase() };
    let low = rig(set("wal_level", "replica")).await;
    let said = refused(&low, &[], 1).await;
    says(&said, &["wal_level is replica", "alter system set wal_level = logical; then restart"]);
    drop(low);

    let mut full = rig(set("max_replication_slots", "1")).await;
    full.pair.source.execute("select pg_create_physical_replication_slot('theirs')").await.unwrap();
    let said = refused(&full, &[], 1).await;
    says(
        &said,
        &["no free replication slot", "alter system set max_replication_slots", "drop_replication_slot('theirs')"],
    );
    full.pair.source.execute("select pg_drop_replication_slot('theirs')").await.unwrap();
    // In use: a second Lockstep on the same slot.
    full.start();
    full.settled().await;
    let port = Port::free().unwrap().number();
    let listen = ("LOCKSTEP_LISTEN", format!("127.0.0.1:{port}"));
    let second = full.command(&["run"]).env(listen.0, &listen.1).output().await.unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    says(&said, &["error: slot lockstep is in use by pid", "(lockstep)", "pg_terminate_backend", "LOCKSTEP_SLOT"]);
    full.settled().await;
    full.terminate().await;
    // Gone, though there is a checkpoint: not a matter for a person.
    full.pair.source.execute("select pg_drop_replication_slot('lockstep')").await.unwrap();
    full.start();
    full.settled().await;
    full.terminate().await;
    // Another source, which must not be touched.
    // Clusters of one locale are copies of one template, and have its identifier.
    let options = ClusterOptions { locale: "C".into(), ..Default::default() };
    let other = rig(PairOptions { supabase: supabase(), source: options }).await;
    full.source_url = other.pair.source.url("postgres");
    let (code, _, said) = full.verb(&["run"]).await;
    assert_eq!(code, Some(1));
    says(&said, &["a copy of another source", "point DATABASE_URL at the source"]);
    nothing_half_done(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_by_itself_is_waited_for_and_said() {
    if says_nothing_of_a_journal("it needs no walsender") {
        return;
    }
    let options = ClusterOptions::default().set("max_wal_senders", "1");
    let mut rig = rig(PairOptions { source: options, supabase: supabase() }).await;
    let url = Url::parse(&rig.pair.source.url("postgres")).unwrap();
    let other = Connection::open(&url, "somebody else").await.unwrap();
    rig.start();
    until("it says that it waits for a walsender", async || rig.tail().contains("all 1 walsenders of the source"))
        .await;
    nothing_half_done(&rig).await;
    drop(other);
    rig.settled().await;
    assert_eq!(rig.terminate().await, Some(0));

    // Neither side answers: it says which, and goes on once both do.
    rig.pair.source.stop(Stop::Fast).await.unwrap();
    rig.start();
    until("it says that the source is away", async || rig.tail().contains("cannot reach 127.0.0.1:")).await;
    rig.pair.source.start().await.unwrap();
    rig.settled().await;
    assert_eq!(rig.terminate().await, Some(0));
    let nobody = Port::free().unwrap().number();
    rig.env = vec![("SUPABASE_URL".into(), format!("http://127.0.0.1:{nobody}"))];
    rig.start();
    let away = format!("Supabase does not answer: http://127.0.0.1:{nobody}: ");
    until("it says that Supabase is away", async || rig.tail().contains(&away)).await;
    assert_eq!(rig.terminate().await, Some(0), "a SIGTERM ends the waiting");
    let log = std::fs::read_to_string(rig.log()).unwrap();
    no_secrets(&rig, &[], &log);
}
