//! Whatever a Postgres can hold arrives as it is: every common type with its odd values, as a value and as a key, by
//! first copy, insert, update, patch, change of key and delete; for each kind of owner that our functions may have.

use std::fmt::Write;

use lockstep::lab::{Owner, PairOptions, SupabaseOptions};

use super::rig::{Rig, public};

pub const TYPES: &str = r#"
    create extension hstore; create schema ext; create extension citext schema ext; create extension ltree schema ext;
    create type mood as enum ('sad', 'it''s "ok"', 'glad, really', '{curly}');
    create domain positive as int check (value > 0);
    create domain tags as text[];
    create type pair as (n numeric, "a text" text);
    create type price as range (subtype = numeric);
    create type words as range (subtype = text, collation = "C");
    create type deep as (p pair, l pair[], m mood, j json, w words);
    create domain paired as pair; create domain moody as mood; create domain more_positive as positive check (value < 1000);
    create domain priced as price;
"#;

/// Each type, and literals of it.
pub const VALUES: &[(&str, &[&str])] = &[
    ("boolean", &["t", "f"]),
    ("smallint", &["-32768", "32767"]),
    ("int", &["-2147483648", "2147483647"]),
    ("bigint", &["-9223372036854775808", "9223372036854775807", "9007199254740993"]),
    (
        "numeric",
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "1234567890123456789012345678901234567890.0123456789",
            "-0.000",
            "1e-40",
            "7e20000",
            "-1e-16000",
        ],
    ),
    ("numeric(12,4)", &["0.1000", "-99999999.9999", "NaN"]),
    ("real", &["NaN", "Infinity", "-0", "1e-45", "1.1754944e-38", "3.4028235e38"]),
    ("double precision", &["NaN", "-Infinity", "-0", "5e-324", "0.1", "1.7976931348623157e308"]),
    ("money", &["$1,234.56", "-92233720368547758.08"]),
    (
        "text",
        &[
            "",
            " ",
            "NULL",
            "null",
            "\\N",
            "{a,\"b\"}",
            "tab\tnew\nline\r\\ back 'quote' \"double\"",
            "🦀 é \u{202e} \u{1}\u{7f}\u{b}",
            "\\x41",
            "\\.",
            "\u{feff}bom \u{10ffff} \u{2028}\u{85}\u{0301} e\u{0301} \u{1f469}\u{200d}\u{1f469}",
        ],
    ),
    ("varchar(20)", &["", "trailing   ", "日本語"]),
    ("char(8)", &["", "ab  ", "abcdefgh"]),
    ("\"char\"", &["a", "", "\\", "\""]),
    ("name", &["a name", "\"quoted\""]),
    ("bytea", &["", "\\x00ff5c275c22", "\\xdeadbeef"]),
    ("uuid", &["00000000-0000-0000-0000-000000000000", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"]),
    ("oid", &["0", "4294967295"]),
    ("pg_lsn", &["0/0", "FFFFFFFF/FFFFFFFF"]),
    ("date", &["infinity", "-infinity", "4713-01-01 BC", "0001-12-31 BC", "5874897-12-31", "2024-02-29"]),
    ("time", &["00:00:00.000001", "24:00:00"]),
    ("timetz", &["23:59:59.999999+15:59", "00:00:00-15:59", "12:00+05:30"]),
    ("timestamp", &["infinity", "-infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999"]),
    (
        "timestamptz",
        &[
            "infinity",
            "-infinity",
            "0044-03-15 12:00:00+00 BC",
            "2024-03-31 02:30:00.123456+02",
            "294276-12-31 23:59:59.999999+00",
            "4714-11-24 00:00:00+00 BC",
        ],
    ),
    ("interval", &["-178000000 years", "1 year -2 mons +3 days -04:05:06.789", "00:00:00", "P1Y2M3DT4H5M6.5S"]),
    (
        "json",
        &[
            "null",
            "{\"a\": 1,  \"a\": 2 , \"b\":[ ]}",
            " \"x\" ",
            "12345678901234567890.10",
            "\"\\u00e9\\\"\"",
            "\"\\u0000\"",
            "[1 ,\n\t2]",
        ],
    ),
    ("jsonb", &["null", "{}", "{\"k\": [1.0, null, \"\\\\\", {\"d\": \"é\\n\"}]}", "1e400", "\"null\""]),
    ("xml", &["<a b=\"c\">&lt;d&gt;</a>", "text", "<!-- c --><a><![CDATA[ <&> ]]></a><?p i?>"]),
    ("tsvector", &["'it''s':1A 'back\\\\slash':2,3", ""]),
    ("tsquery", &["'fat' & ( 'rat' | !'cat' )", "'a b' <-> 'c':*A"]),
    ("inet", &["192.168.0.1/24", "::ffff:1.2.3.4", "10.0.0.1"]),
    ("cidr", &["10.0.0.0/8", "2001:db8::/32"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("bit(5)", &["10101"]),
    ("varbit", &["", "1", "10110011100"]),
    ("point", &["(1.5,-2)", "(NaN,Infinity)"]),
    ("line", &["{1,2,3}"]),
    ("lseg", &["[(0,0),(1,1)]"]),
    ("box", &["(1,1),(0,0)", "(2.5,3),(-1,-2)"]),
    ("path", &["((0,0),(1,1))", "[(0,0),(2,0)]"]),
    ("polygon", &["((0,0),(1,0),(0,1))"]),
    ("circle", &["<(0,0),2.5>"]),
    ("int4range", &["empty", "[1,10)", "(,5)", "[3,)"]),
    ("numrange", &["(1.10,2.20]", "(,)"]),
    ("tstzrange", &["[2024-01-01 00:00:00+00,infinity)", "[\"2024-01-01 00:00:00+00\",\"2024-02-01 00:00:00+00\")"]),
    ("int8range", &["[-9223372036854775808,9223372036854775807)", "(,)"]),
    ("daterange", &["[-infinity,infinity]", "[4713-01-01 BC,2024-02-29)"]),
    ("tsrange", &["[\"2024-01-01 00:00:00\",)", "empty"]),
    ("int4multirange", &["{}", "{[1,3),[7,9)}"]),
    ("nummultirange", &["{[1.10,2.20],(3,)}", "{}"]),
    ("tstzmultirange", &["{[\"2024-01-01 00:00:00+00\",\"2024-02-01 00:00:00+00\"),[infinity,infinity]}"]),
    ("words", &["[\"a \"\"b\"\"\",\"c)\\\\\"]", "(\"\",)", "empty"]),
    ("price_multirange", &["{[1.50,2),(7,)}"]),
    ("price", &["[1.50,2)"]),
    ("mood", &["sad", "it's \"ok\"", "glad, really", "{curly}"]),
    ("positive", &["1"]),
    ("tags", &["{}", "{a,NULL,\"NULL\"}"]),
    ("pair", &["(1.50,\"a \"\"b\"\", c\")", "(,)", "(NaN,)"]),
    (
        "deep",
        &[
            "(\"(1,\"\"x\"\")\",\"{\"\"(2,\\\\\"\"y\\\\\"\")\"\",NULL}\",\"it's \"\"ok\"\"\",\"{\"\"a\"\": [1 , null]}\",\"[a,b]\")",
            "(,,,,)",
        ],
    ),
    ("paired", &["(7,\"in a domain\")", "(,)"]),
    ("moody", &["glad, really"]),
    ("more_positive", &["999"]),
    ("priced", &["(1,2]"]),
    ("hstore", &["", "\"a b\"=>\"c\\\"d\", n=>NULL"]),
    ("ext.citext", &["MiXed", ""]),
    ("ext.ltree", &["Top.Science.Astronomy"]),
    ("int2vector", &["1 2 3"]),
    ("oidvector", &["1 2"]),
    ("regclass", &["pg_class"]),
    ("regtype", &["integer", "timestamp with time zone"]),
    ("xid8", &["0", "18446744073709551615"]),
    ("xid", &["4294967295"]),
    ("tid", &["(4294967295,65535)"]),
    ("jsonpath", &["$.\"a\"[*]"]),
    ("pg_snapshot", &["10:20:10,14"]),
];

const ROWS: usize = 12;

/// One wide table: each type, and its array, and a text that is stored apart so that an update leaves it alone.
fn wide() -> String {
    let mut sql = String::from("create table wide (id int primary key, big text, n int");
    for (at, (kind, _)) in VALUES.iter().enumerate() {
        write!(sql, ", c{at} {kind}").unwrap();
        if has_array(kind) {
            write!(sql, ", a{at} {kind}[]").unwrap();
        }
    }
    sql + "); alter table wide alter big set storage external;"
}

pub fn has_array(kind: &str) -> bool {
    !matches!(kind, "int2vector" | "oidvector")
}

pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Column and expression for row `row`: values in turn, NULL when the turn is over, arrays of every form.
fn cells(row: usize) -> Vec<(String, String)> {
    let mut cells = Vec::new();
    for (at, (kind, literals)) in VALUES.iter().enumerate() {
        let value = match literals.get(row % (literals.len() + 1)) {
            Some(text) => format!("{}::{kind}", literal(text)),
            None => format!("null::{kind}"),
        };
        let array = match row % 6 {
            0 => format!("array[{value}, null]::{kind}[]"),
            1 => "'{}'".to_owned(),
            2 => format!("array[array[{value}, null], array[null, {value}]]::{kind}[]"),
            3 => format!("('[-3:-2]=' || (array[{value}, {value}]::{kind}[])::text)::{kind}[]"),
            4 => "null".to_owned(),
            _ => format!("array[null]::{kind}[]"),
        };
        cells.push((format!("c{at}"), value));
        // An array of a domain over an array has no second dimension of its own.
        if has_array(kind) {
            cells.push((format!("a{at}"), array));
        }
    }
    cells
}

fn insert_wide(ids: std::ops::Range<usize>) -> String {
    let mut sql = String::new();
    for id in ids {
        let (names, values): (Vec<_>, Vec<_>) = cells(id).into_iter().unzip();
        let big = match id % 3 {
            0 if id == 0 => "repeat('🦀 \\\"', 400000)".to_owned(), // a few MB
            0 => "repeat('🦀 \\\"', 20000)".to_owned(),
            1 => "repeat('x', 5000)".to_owned(),
            _ => "null".to_owned(),
        };
        write!(sql, "insert into wide (id, big, {}) values ({id}, {big}, {});", names.join(", "), values.join(", "))
            .unwrap();
    }
    sql
}

/// Each row takes the values of its neighbour; `big` stays as it is.
fn update_wide(ids: std::ops::Range<usize>, big: &str) -> String {
    let mut sql = String::new();
    for id in ids {
        let set: Vec<String> = cells(id + 1).into_iter().map(|(name, value)| format!("{name} = {value}")).collect();
        write!(sql, "update wide set {}{big} where id = {id};", set.join(", ")).unwrap();
    }
    sql
}

/// A key's type, its value number i, and the same value in another spelling or the next one.
pub const KEYS: &[(&str, &str, &str)] = &[
    ("text", "'k ' || i || repeat(' ', i % 3)", "k || ' '"),
    ("ext.citext", "'Key ' || i", "upper(k::text)::ext.citext"),
    ("numeric", "(i / 8.0)::numeric(10, 3)", "k::numeric(12, 5)"),
    ("uuid", "md5(i::text)::uuid", "md5(k::text)::uuid"),
    (
        "timestamptz",
        "'2024-03-31 00:00:00+00'::timestamptz + i * interval '7 min 0.000001 s'",
        "k + interval '9 years'",
    ),
    ("bytea", "decode(md5(i::text), 'hex')", "k || '\\x00'"),
    ("char(9)", "'k' || i", "k || '!'"),
    ("inet", "'10.0.0.0/16'::inet + i", "set_masklen(k, 17)"),
    ("interval", "i * interval '1 day'", "justify_days(k) + interval '1 us'"),
    ("double precision", "case i when 1 then 'NaN' when 2 then '-0' else i / 3.0 end", "k + 1000"),
    ("jsonb", "jsonb_build_object('i', i, 'x', '\"')", "k || '{\"more\": null}'"),
    ("int[]", "array[i, null, i]", "k || 1"),
    ("pair", "row(i, 'x\"' || i)::pair", "row((k).n, null)::pair"),
    ("int4range", "int4range(i, i + 5)", "int4range(lower(k), lower(k) + 9)"),
    ("varbit", "i::bit(12)::varbit", "k || B'1'"),
    ("date", "date '2024-01-01' + i", "'infinity'::date - 0"),
    ("ext.ltree", "('a.k' || i)::ext.ltree", "k operator(ext.||) 'z'::ext.ltree"),
];

fn key_tables() -> String {
    let mut sql = String::new();
    for (at, (kind, _, _)) in KEYS.iter().enumerate() {
        write!(sql, "create table k{at} (n int, big text, k {kind} primary key);").unwrap();
        write!(sql, "alter table k{at} alter big set storage external;").unwrap();
    }
    sql + "create table canary (id int primary key, u int unique);
        create table k_enum (k mood primary key, n int);
        create table k_many (c text, a int, n int, b char(3), primary key (b, a, c));"
}

fn fill_keys(from: usize, to: usize) -> String {
    let mut sql = String::new();
    for (at, (_, value, _)) in KEYS.iter().enumerate() {
        let big = "case when i % 2 = 0 then repeat('big ' || i, 800) end";
        write!(sql, "insert into k{at} select i, {big}, {value} from generate_series({from}, {to}) i;").unwrap();
    }
    sql
}

fn each_key(statement: impl Fn(usize, &str) -> String) -> String {
    KEYS.iter().enumerate().map(|(at, (_, _, other))| statement(at, other) + ";").collect()
}

/// In one transaction with two unique values that change places: as a set that is refused, so all is replayed in order.
fn replayed(sql: &str) -> String {
    format!(
        "begin; update canary set u = 0 where id = 1; update canary set u = 3 - u where id = 2;
         update canary set u = 3 - (select c.u from canary c where c.id = 2) where id = 1; {}; commit",
        sql.trim_end_matches(';')
    )
}

async fn holds(owner: Owner) {
    let supabase = SupabaseOptions { owner, ..SupabaseOptions::default() };
    let options = PairOptions { supabase, ..PairOptions::default() };
    let mut rig = Rig::with(options, &(TYPES.to_owned() + &wide() + &key_tables())).await;
    let mut names: Vec<String> = (0..KEYS.len()).map(|at| format!("k{at}")).collect();
    names.extend(["wide", "k_enum", "k_many", "canary"].map(String::from));
    let tables = public(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let many = "insert into k_many select 'c' || i % 7, i, i, 'b' || i % 3 from generate_series(1, 150) i";
    let few = "insert into k_enum values ('sad', 1), ('{curly}', 2); insert into canary values (1, 1), (2, 2);";
    let first = insert_wide(0..ROWS) + &fill_keys(1, 150) + few + many;
    rig.pair.source.execute(&first).await.unwrap();
    rig.start();
    rig.settled().await;
    rig.assert_equal(&tables).await;
    for (what, sql) in [
        ("insert", insert_wide(ROWS..2 * ROWS)),
        ("patch", update_wide(0..ROWS, "")),
        ("update", update_wide(0..2 * ROWS, ", big = 'whole again'")),
        ("change of key", "update wide set id = id + 1000 where id % 2 = 0".into()),
        ("delete", "delete from wide where id % 3 = 1".into()),
        ("insert keys", fill_keys(151, 170)),
        ("patch by key", each_key(|at, _| format!("update k{at} set n = -n where n % 2 = 0"))),
        ("update by key", each_key(|at, _| format!("update k{at} set n = n + 1, big = 'new' where abs(n) % 5 = 0"))),
        ("change keys", each_key(|at, other| format!("update k{at} set k = {other} where n = 7"))),
        ("change keys and toast", each_key(|at, other| format!("update k{at} set k = {other}, n = 0 where n = -10"))),
        ("delete by key", each_key(|at, _| format!("delete from k{at} where n % 4 = 3"))),
        ("enum key", "update k_enum set k = 'it''s \"ok\"' where k = 'sad'; delete from k_enum where n = 2".into()),
        (
            "key of many",
            "update k_many set n = -n where a % 2 = 0; update k_many set b = 'z' where a % 10 = 1;
             update k_many set (a, c) = (a + 1000, 'x') where a % 10 = 2; delete from k_many where a % 10 = 3"
                .into(),
        ),
        // The same once more by the third kind of statement: row by row, in the source's order.
        ("insert in replay", replayed(&insert_wide(2 * ROWS..3 * ROWS))),
        ("patch in replay", replayed(&update_wide(2 * ROWS..3 * ROWS, ""))),
        ("update in replay", replayed(&update_wide(2 * ROWS..3 * ROWS, ", big = 'whole again'"))),
        ("change of key in replay", replayed("update wide set id = id + 2000 where id between 24 and 30")),
        ("keys in replay", replayed(&each_key(|at, other| format!("update k{at} set k = {other} where n = 11")))),
        (
            "delete in replay",
            replayed(&(each_key(|at, _| format!("delete from k{at} where n = 13")) + "delete from wide")),
        ),
        (
            "away and back",
            each_key(|at, _| {
                format!(
                    "with gone as (delete from k{at} where n % 3 = 1 returning *) insert into k{at} select n + 9, null, k from gone"
                )
            }),
        ),
    ] {
        rig.pair.source.execute(&sql).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        rig.settled().await;
        let differences = rig.pair.differences(&tables).await.unwrap();
        assert!(differences.is_empty(), "{owner:?}, after {what}:\n{}\n{}", differences.join("\n"), rig.tail());
    }
    let replays = rig.metric("lockstep_replays_total").await;
    match owner {
        Owner::Plain => assert_eq!(replays, 0.0, "all is written in the source's order anyway"),
        _ => assert!(replays >= 6.0, "only {replays} batches were replayed"),
    }
    let noise = std::fs::read_to_string(rig.log()).unwrap();
    assert!(!noise.contains("was interrupted"), "{noise}");
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_arrives_as_it_is_where_the_owner_may_suppress_triggers() {
    holds(Owner::SetReplicationRole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_arrives_as_it_is_where_the_owner_may_not() {
    holds(Owner::Plain).await;
}
