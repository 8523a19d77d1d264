//! Each mistake an operator can make in the settings ends in one line that names the place and the remedy.

use std::collections::BTreeSet;

use secrecy::ExposeSecret;

use super::*;
use crate::config::{Existing, LogFormat, Triggers};

fn file(text: &str) -> Result<Settings, Problem> {
    read(&Layers { file: Some(("lockstep.toml".into(), text.into())), ..Layers::default() })
}

fn env(pairs: &[(&str, &str)]) -> Result<Settings, Problem> {
    let env = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    read(&Layers { env, ..Layers::default() })
}

fn line(result: Result<Settings, Problem>) -> String {
    let line = result.expect_err("this should have been refused").to_string();
    assert!(!line.contains('\n'), "more than one line: {line}");
    line
}

#[test]
fn three_variables_are_enough() {
    let settings = env(&[
        ("DATABASE_URL", "postgres://u:p@h/d"),
        ("SUPABASE_URL", "https://abc.supabase.co"),
        ("SUPABASE_KEY", "sb_secret_abc"),
    ])
    .unwrap();
    let (url, key) = settings.supabase.endpoint().unwrap();
    assert_eq!((url.to_string().as_str(), key.apikey()), ("https://abc.supabase.co", "sb_secret_abc"));
    assert_eq!(settings.source.url().unwrap().expose_secret(), "postgres://u:p@h/d");
    assert_eq!(
        (settings.source.slot.as_str(), settings.tables.schemas.as_slice()),
        ("lockstep", &["public".into()][..])
    );
}

#[test]
fn the_environment_beats_dotenv_beats_the_file() {
    let layers = |dotenv: &str, env: &[(&str, &str)]| Layers {
        file: Some(("lockstep.toml".into(), "[source]\nslot = \"from_file\"".into())),
        dotenv: Some(dotenv.into()),
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..Layers::default()
    };
    let slot = |layers| read(&layers).unwrap().source.slot;
    assert_eq!(slot(layers("", &[])), "from_file");
    assert_eq!(slot(layers("LOCKSTEP_SLOT=from_dotenv", &[])), "from_dotenv");
    assert_eq!(slot(layers("LOCKSTEP_SLOT=from_dotenv", &[("LOCKSTEP_SLOT", "from_env")])), "from_env");
    assert_eq!(slot(layers("LOCKSTEP_SLOT=from_dotenv", &[("LOCKSTEP_SLOT", "")])), "from_dotenv");
}

#[test]
fn every_section_is_read() {
    let settings = file(
        r#"
        [source]
        create = false
        [supabase]
        timeout = "5s"
        ca_file = "ca.pem"
        [tables]
        schemas = ["public", "Odd Name"]
        exclude = ["public.audit_*"]
        [table."public.agents"]
        columns = ["id", "name"]
        [apply]
        triggers = "fire"
        max_batch_bytes = "512 KiB"
        [copy]
        existing = "keep"
        [http]
        listen = "localhost:0"
        [log]
        format = "json"
        level = "info,lockstep::apply=debug"
        [shutdown]
        deadline = "1m"
        "#,
    )
    .unwrap();
    assert_eq!(settings.table["public.agents"].columns, ["id", "name"]);
    assert_eq!((settings.apply.triggers, settings.apply.max_batch_bytes), (Triggers::Fire, 512 << 10));
    assert_eq!((settings.copy.existing, settings.log.format), (Existing::Keep, LogFormat::Json));
    assert_eq!((settings.shutdown.deadline.as_secs(), settings.supabase.timeout.as_secs()), (60, 5));
    assert!(!settings.source.create && settings.http.listen.ip().is_loopback());
}

#[test]
fn every_mistake_in_the_file_names_its_place_and_its_remedy() {
    for (text, place, word) in [
        ("[source]\nslto = 'x'", "source.slto in lockstep.toml", "did you mean `slot`?"),
        ("[sorce]\nslot = 'x'", "sorce in lockstep.toml", "did you mean `source`?"),
        ("slot = 'x'", "slot in lockstep.toml", "did you mean `source.slot`?"),
        ("[table.'public.a']\ncolums = []", "table.public.a.colums in lockstep.toml", "did you mean `columns`?"),
        ("[zzzzzzzz]", "zzzzzzzz in lockstep.toml", "there is no such setting"),
        ("source = 5", "source in lockstep.toml", "section"),
        ("[source]\nslot = 'A b'", "source.slot in lockstep.toml", "a-z, 0-9 and _"),
        ("[source]\npublication = ''", "source.publication in lockstep.toml", "1 to 63 bytes"),
        ("[source]\ncreate = 'maybe'", "source.create in lockstep.toml", "expected a boolean"),
        ("[supabase]\ntimeout = 30", "supabase.timeout in lockstep.toml", "write \"30s\""),
        ("[supabase]\ntimeout = '1h'", "supabase.timeout in lockstep.toml", "outside 1 s to 600 s"),
        ("[supabase]\nurl = 'http://10.0.0.5'", "supabase.url in lockstep.toml", "SUPABASE_ALLOW_HTTP"),
        ("[tables]\nschemas = []", "tables.schemas in lockstep.toml", "no schema"),
        ("[tables]\ninclude = ['agents']", "tables.include in lockstep.toml", "write `public.agents`"),
        ("[table.agents]\ncolumns = []", "table in lockstep.toml", "write [table.\"public.agents\"]"),
        ("[apply]\ntriggers = 'off'", "apply.triggers in lockstep.toml", "expected `suppress` or `fire`"),
        ("[apply]\nmax_batch_bytes = 5", "apply.max_batch_bytes in lockstep.toml", "16 KiB to 64 MiB"),
        ("[copy]\nchunk_bytes = '1 XB'", "copy.chunk_bytes in lockstep.toml", "is not a size"),
        ("[http]\nlisten = '9464'", "http.listen in lockstep.toml", "127.0.0.1:9464"),
        ("[http]\nlisten = '0.0.0.0:9464'", "http.listen in lockstep.toml", "set LOCKSTEP_TOKEN"),
        ("[http]\ntoken = 'short'", "http.token in lockstep.toml", "at least 16"),
        ("[log]\nlevel = 'lockstep=loud'", "log.level in lockstep.toml", "error, warn, info"),
        ("[source]\n\nslot = 'x", "lockstep.toml, line 3", "string"),
    ] {
        let line = line(file(text));
        assert!(line.starts_with(&format!("{place}: ")) && line.contains(word), "{text:?} gave: {line}");
    }
}

#[test]
fn every_mistake_in_a_variable_names_it_and_the_layer_it_came_from() {
    for (name, value, word) in [
        ("DATABASE_URL", "https://example.org", "the database's is needed"),
        ("SUPABASE_URL", "https://abc.supabase.co/rest/v1", "leave the path `/rest/v1` off"),
        ("SUPABASE_KEY", "sb_publishable_abc", "publishable key"),
        ("SUPABASE_ALLOW_HTTP", "perhaps", "neither true nor false"),
        ("LOCKSTEP_LISTEN", "0.0.0.0:1", "LOCKSTEP_TOKEN"),
    ] {
        let from_env = line(env(&[(name, value)]));
        assert!(from_env.starts_with(&format!("{name} in the environment: ")) && from_env.contains(word), "{from_env}");
        let dotenv = Some(format!("# ours\n{name}={value}\n"));
        let from_dotenv = line(read(&Layers { dotenv, ..Layers::default() }));
        assert!(from_dotenv.starts_with(&format!("{name} in .env: ")) && from_dotenv.contains(word), "{from_dotenv}");
    }
}

#[test]
fn dotenv_refuses_misspelt_names_of_ours_and_leaves_those_of_others_alone() {
    let dotenv = |text: &str| read(&Layers { dotenv: Some(text.into()), ..Layers::default() });
    assert!(line(dotenv("LOCKSTEP_LISTN=x")).contains("did you mean LOCKSTEP_LISTEN?"));
    assert!(dotenv("POSTGRES_PASSWORD=x\nOTHER='y z'").is_ok());
    let broken = line(dotenv("A=1\nSUPABASE_KEY=sb secret hush\n"));
    assert!(broken.starts_with(".env, line 2: ") && !broken.contains("hush"), "{broken}");
    assert!(env(&[("LOCKSTEP_PORT", "tcp://10.0.0.1:9464")]).is_ok(), "Kubernetes sets this beside our service");
}

#[test]
fn what_is_missing_is_named_with_an_example() {
    let nothing = env(&[]).unwrap();
    assert!(nothing.source.url().unwrap_err().to_string().starts_with("DATABASE_URL: is not set"));
    assert!(nothing.supabase.endpoint().unwrap_err().to_string().starts_with("SUPABASE_URL: is not set"));
    let half = env(&[("SUPABASE_URL", "https://abc.supabase.co")]).unwrap();
    assert!(half.supabase.endpoint().unwrap_err().to_string().starts_with("SUPABASE_KEY: is not set"));
}

#[test]
fn a_private_key_of_any_shape_never_shows_in_a_message_or_in_debug() {
    for text in [
        "[supabase]\nkey = 123454321",
        "[supabase]\nkey = 'hush-123454321'",
        "[supabase]\nkey = \"hush-123454321",
        "[source]\nurl = 123454321",
        "[source]\nurl = 'https://u:123454321@h/'",
        "[http]\ntoken = '123454321'",
    ] {
        let line = line(file(text));
        assert!(!line.contains("123454321"), "{text:?} gave: {line}");
    }
    let settings = file(
        "[source]\nurl = 'postgres://u:hush-hush-hush-hush@h/d'\n[supabase]\nkey = 'sb_secret_hush'\n\
         [http]\ntoken = 'hush-hush-hush-hush'",
    )
    .unwrap();
    assert!(!format!("{settings:?}").contains("hush"));
}

/// The list in `names` and the fields of the structs are one thing written twice; serde tells the fields.
#[test]
fn the_list_of_settings_is_the_fields_of_the_structs() {
    let fields = |path: &[&str]| -> BTreeSet<String> {
        let mut tree = Table::from_iter([("?".to_owned(), Value::Boolean(true))]);
        for name in path.iter().rev() {
            tree = Table::from_iter([((*name).to_owned(), Value::Table(tree))]);
        }
        let error = Value::Table(tree).try_into::<Settings>().unwrap_err().message().to_owned();
        let (_, expected) = error.split_once("expected ").expect(&error);
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let mut found = BTreeSet::new();
    for section in fields(&[]) {
        match section.as_str() {
            "table" => found.extend(fields(&["table", "x"]).iter().map(|field| format!("table.*.{field}"))),
            _ => found.extend(fields(&[&section]).iter().map(|field| format!("{section}.{field}"))),
        }
    }
    assert_eq!(found, SETTINGS.iter().map(|setting| setting.key.to_owned()).collect());
}
