//! What a laboratory cannot be brought into in a test: old servers, old age, wrong clocks, far hosts.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::case::{Case, Clock, Listen, Rest, Source, Target};
use super::facts::{Facts, Open, Prepared, Server, Slot};
use super::*;
use crate::config::{Layers, Settings};
use crate::pg::Url;
use crate::pg::replication::System;
use crate::rest::{Class, Failure};
use crate::types::{Fault, Lsn};

fn settings(variables: &[(&str, &str)]) -> Settings {
    let env: HashMap<String, String> = variables.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    crate::config::read(&Layers { env, ..Layers::default() }).unwrap()
}

fn facts() -> Facts {
    let server = Server {
        version: 150_004,
        database: "shop".into(),
        encoding: "UTF8".into(),
        superuser: true,
        wal_level: "logical".into(),
        max_slots: 10,
        max_senders: 10,
        slot_keep_mb: -1,
        sender_timeout_ms: 60_000,
        decoding_kb: 65_536,
        encrypted: Some(true),
        ..Server::default()
    };
    Facts { server, installed: crate::ledger::install::MIGRATIONS.last().map(|m| m.version), ..Facts::default() }
}

fn slot() -> Slot {
    let name = |text: &str| Some(text.to_owned());
    Slot {
        kind: "logical".into(),
        plugin: name("pgoutput"),
        database: name("shop"),
        confirmed: name("0/10"),
        wal_status: name("reserved"),
        ..Slot::default()
    }
}

/// Both sides as they should be.
fn well() -> Case {
    let url = Url::parse("postgres://me@db.example.org/shop").unwrap();
    let clock = Clock { ahead: 0.0, round_trip: 0.1 };
    let system = System { identifier: "1".into(), timeline: 1, flushed: Lsn(100) };
    let table = crate::types::Table {
        oid: 1,
        name: crate::types::TableName::new("public", "t"),
        columns: Vec::new(),
        key: Vec::new(),
        estimated_rows: 0,
    };
    let rights = ["select", "insert", "update", "delete", "truncate"].map(String::from).to_vec();
    let unique = facts::Unique { primary: true, plain: true, immediate: true, ..facts::Unique::default() };
    let there = facts::Table {
        schema: "public".into(),
        name: "t".into(),
        usage: true,
        rls: true,
        mine: true,
        rights,
        uniques: vec![unique],
        ..facts::Table::default()
    };
    let both = Facts { tables: vec![there], ..facts() };
    let source = Source {
        url,
        facts: Facts { publication: Some(published()), slot: Some(slot()), ..both.clone() },
        clock,
        tables: vec![table],
        left_out: Vec::new(),
        restricted: Vec::new(),
        not_tables: Vec::new(),
        choice: Vec::new(),
        replication: Ok(system),
        journal: None,
        script: None,
    };
    let target = Target {
        rest: Rest::Works,
        facts: Some(Facts { may_suppress: Some(true), ..both }),
        listing: None,
        exposed: Vec::new(),
        clock: Some(clock),
        direct: None,
    };
    Case {
        settings: settings(&[("SUPABASE_URL", "https://abc.supabase.co"), ("SUPABASE_KEY", "sb_secret_x")]),
        key: None,
        readable: Vec::new(),
        listen: Listen::Free,
        source: Ok(source),
        target,
        source_addresses: vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))],
    }
}

fn published() -> facts::Publication {
    let table = facts::Published { schema: "public".into(), name: "t".into(), identity: true };
    facts::Publication {
        mine: true,
        via_root: true,
        insert: true,
        update: true,
        delete: true,
        truncate: true,
        tables: vec![table],
        ..facts::Publication::default()
    }
}

fn source(case: &mut Case) -> &mut Source {
    case.source.as_mut().ok().unwrap()
}

fn server(case: &mut Case) -> &mut Server {
    &mut source(case).facts.server
}

fn there(case: &mut Case) -> &mut Facts {
    case.target.facts.as_mut().unwrap()
}

fn said(report: &Report) -> Vec<String> {
    let bad = report.findings.iter().filter(|finding| finding.level >= Level::Warn);
    bad.map(|f| format!("{} {} {}", f.code, f.what, f.fix.as_ref().map_or("", |fix| &fix.text))).collect()
}

#[test]
fn each_thing_that_is_wrong_is_named_by_its_own_code_and_nothing_else_is() {
    assert_eq!(said(&judge(&well())), [""; 0]);
    type Spoil = fn(&mut Case);
    let cases: [(&str, &str, Spoil); 25] = [
        ("source-tls", "sslmode=verify-full", |c| server(c).encrypted = Some(false)),
        ("source-version", "PostgreSQL 13", |c| server(c).version = 130_010),
        ("source-primary", "at the primary", |c| server(c).standby = true),
        ("source-encoding", "SQL_ASCII", |c| server(c).encoding = "SQL_ASCII".into()),
        ("clock", "ahead of", |c| source(c).clock.ahead = 5.0),
        ("clock", "Supabase's clock is 60.0 s behind", |c| {
            c.target.clock = Some(Clock { ahead: -60.0, round_trip: 1.0 })
        }),
        ("slot-timeout", "idle_replication_slot_timeout = 0", |c| server(c).idle_slot_timeout_s = Some(3600)),
        ("wal-senders", "in use", |c| server(c).senders = 10),
        ("prepared", "rollback prepared 'x'", |c| {
            server(c).prepared = vec![Prepared { gid: "x".into(), seconds: 3_600.0 }];
        }),
        ("open-transactions", "pg_terminate_backend(42)", |c| {
            server(c).open = vec![Open { pid: 42, seconds: 7_200.0, writes: true, ..Open::default() }];
        }),
        ("replication-right", "grant rds_replication to", |c| {
            (server(c).superuser, server(c).rds, server(c).role) = (false, true, "me".into());
        }),
        ("replication-reach", "the server itself", |c| {
            source(c).url.port = 6543;
            source(c).replication = Err(Fault::retry("no"));
        }),
        ("slot-lost", "is lost", |c| {
            let slot = Slot { wal_status: Some("lost".into()), invalid: Some("wal_removed".into()), ..slot() };
            source(c).facts.slot = Some(slot);
        }),
        ("slot-lost", "5 MiB of WAL are left", |c| {
            let slot = Slot { wal_status: Some("unreserved".into()), safe_bytes: Some(5 << 20), ..slot() };
            source(c).facts.slot = Some(slot);
        }),
        ("wal-retained", "5.0 GiB", |c| {
            source(c).facts.slot = Some(Slot { retained: Some(5.0 * f64::from(1 << 30)), ..slot() })
        }),
        ("publication-others", "its updates fail", |c| {
            let other = facts::Published { schema: "public".into(), name: "o".into(), ..Default::default() };
            source(c).facts.publication.as_mut().unwrap().tables.push(other);
        }),
        ("target-server", "version 13", |c| there(c).server.version = 130_000),
        ("target-encoding", "LATIN1", |c| there(c).server.encoding = "LATIN1".into()),
        ("target-https", "unencrypted", |c| {
            let url = ("SUPABASE_URL", "http://supabase.example");
            c.settings = settings(&[url, ("SUPABASE_KEY", "sb_secret_x"), ("SUPABASE_ALLOW_HTTP", "true")]);
        }),
        ("target-reach", "not a Supabase project", |c| {
            c.target.rest =
                Rest::Failed(Failure { status: Some(404), class: Class::SetUp, ..Failure::unanswered("page") });
        }),
        ("history", "the slot is gone", |c| {
            source(c).facts.server.wal_end = Some("0/64".into());
            (source(c).facts.slot, source(c).facts.publication) = (None, None);
            there(c).memory = Some(memory(r#"{"system": "1", "slot": "lockstep", "timeline": 1}"#));
        }),
        ("history", "on timeline 1 and the checkpoint on 7", |c| {
            source(c).facts.server.wal_end = Some("0/64".into());
            there(c).memory = Some(memory(r#"{"system": "1", "slot": "lockstep", "timeline": 7}"#));
        }),
        ("another-source", "LOCKSTEP_SLOT=theirs", |c| {
            there(c).memory = Some(memory(r#"{"system": "1", "slot": "theirs", "timeline": 1}"#));
        }),
        ("installed-version", "older than", |c| there(c).installed = None),
        ("key", "no unique key", |c| there(c).tables[0].uniques.clear()),
    ];
    for (code, part, spoil) in cases {
        let mut case = well();
        spoil(&mut case);
        let report = judge(&case);
        let said = said(&report);
        assert!(said.len() == 1 && said[0].starts_with(&format!("{code} ")), "{code}: {said:#?}");
        assert!(said[0].contains(part), "{code}: no `{part}` in {said:#?}");
        assert_eq!(report.exit_code(), 1, "{code}");
    }
}

fn memory(source: &str) -> facts::Memory {
    facts::Memory { major: 50, source: serde_json::from_str(source).unwrap(), ..facts::Memory::default() }
}

#[test]
fn a_side_that_cannot_be_looked_at_makes_its_checks_unknown_and_nothing_green() {
    let mut case = well();
    case.source = Err(Trouble::bad("cannot reach it"));
    case.source_addresses = vec![IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let report = judge(&case);
    assert_eq!(
        said(&report),
        ["source-reach cannot reach it its name leads to IPv6 addresses only: give this host IPv6"]
    );
    assert_eq!(report.exit_code(), 2);
    let green = |finding: &&Finding| finding.group == Group::Tables && finding.level == Level::Ok;
    assert_eq!(report.findings.iter().filter(green).count(), 0);
}

#[test]
fn codes_are_one_word_each_and_never_twice() {
    let mut codes: Vec<&str> = CHECKS.iter().map(|check| check.code).collect();
    let plain = |code: &&str| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    assert!(codes.iter().all(plain) && codes.len() >= 30);
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), CHECKS.len());
}
