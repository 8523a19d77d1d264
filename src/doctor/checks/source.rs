//! The source's server, its role, and which tables it can give.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::capture::slot::server;
use crate::doctor::case::Case;
use crate::doctor::facts::{Facts, Server};
use crate::doctor::finding::{Side, Trouble};
use crate::pg::catalog::Why;
use crate::pg::quote::ident;
use crate::pg::url::Host;
use crate::remedy;
use crate::types::{Fault, TableName};

const RELOAD: &str = "select pg_reload_conf()";

pub(super) fn reach(case: &Case) -> Vec<Trouble> {
    let Err(trouble) = &case.source else { return Vec::new() };
    let only_v6 = !case.source_addresses.is_empty() && case.source_addresses.iter().all(IpAddr::is_ipv6);
    let trouble = trouble.clone();
    vec![match (only_v6, &trouble.fix) {
        // A session pooler has IPv4, but cannot replicate.
        (true, None) => trouble.by_hand("its name leads to IPv6 addresses only: give this host IPv6"),
        (false, None) => trouble.by_hand("look whether it runs, and whether this host may reach it"),
        (_, Some(_)) => trouble,
    }]
}

fn facts(case: &Case) -> &Facts {
    static NONE: std::sync::LazyLock<Facts> = std::sync::LazyLock::new(Facts::default);
    case.source.as_ref().map_or(&NONE, |source| &source.facts)
}

fn said(judgement: Result<(), Fault>) -> Option<Trouble> {
    judgement.err().map(|fault| Trouble::fault(&fault))
}

fn one(trouble: Option<Trouble>) -> Vec<Trouble> {
    trouble.into_iter().collect()
}

pub(super) fn encrypted(case: &Case) -> Vec<Trouble> {
    let Ok(source) = &case.source else { return Vec::new() };
    let far = matches!(&source.url.host, Host::Tcp(_)) && !case.source_addresses.iter().any(IpAddr::is_loopback);
    let open = far && source.facts.server.encrypted == Some(false);
    one(open.then(|| {
        Trouble::warn(format!("the connection to {} is not encrypted", source.url.address()))
            .by_hand("turn TLS on there (ssl = on), and add sslmode=verify-full to DATABASE_URL")
    }))
}

pub(super) fn version(case: &Case) -> Vec<Trouble> {
    one(said(server::version(facts(case).server.version)))
}

pub(super) fn primary(case: &Case) -> Vec<Trouble> {
    one(said(server::primary(facts(case).server.standby)))
}

pub(super) fn read_only(case: &Case) -> Vec<Trouble> {
    let Server { read_only, database, .. } = &facts(case).server;
    one(read_only.then(|| {
        Trouble::bad(format!("database {database} is set read only: a slot's watermarks cannot be written"))
            .sql(Side::Source, remedy::writable(database))
            .decide()
    }))
}

pub(super) fn encoding(case: &Case) -> Vec<Trouble> {
    let encoding = &facts(case).server.encoding;
    one((encoding == "SQL_ASCII").then(|| {
        Trouble::warn("the source's encoding is SQL_ASCII: a text that is not UTF-8 stops the stream")
            .by_hand("move the data into a database with encoding UTF8")
    }))
}

pub(super) fn wal_level(case: &Case) -> Vec<Trouble> {
    let trouble = said(server::wal_level(&facts(case).server.wal_level));
    one(trouble.map(|trouble| trouble.sql(Side::Source, [remedy::WAL_LEVEL]).restart()))
}

pub(super) fn senders(case: &Case) -> Vec<Trouble> {
    let Server { max_senders, senders, .. } = facts(case).server;
    let running = facts(case).slot.as_ref().is_some_and(|slot| slot.pid.is_some());
    let none = said(server::senders(max_senders)).or_else(|| {
        (senders >= max_senders && !running)
            .then(|| Trouble::bad(format!("all {max_senders} WAL senders of the source are in use (max_wal_senders)")))
    });
    one(none.map(|trouble| trouble.sql(Side::Source, [remedy::MORE_SENDERS]).restart()))
}

pub(super) fn may_replicate(case: &Case) -> Vec<Trouble> {
    let Server { superuser, replication, rds, rds_member, role, .. } = &facts(case).server;
    if *superuser || *replication || (*rds && *rds_member) {
        return Vec::new();
    }
    let statement = match rds {
        true => format!("grant rds_replication to {}", ident(role)),
        false => remedy::may_replicate(role),
    };
    vec![Trouble::bad(format!("role {role} may not replicate")).sql(Side::Source, [statement])]
}

pub(super) fn replicates(case: &Case) -> Vec<Trouble> {
    let Ok(source) = &case.source else { return Vec::new() };
    let Err(fault) = &source.replication else { return Vec::new() };
    // Each of these has its own check.
    if !may_replicate(case).is_empty() || !senders(case).is_empty() {
        return vec![Trouble::unknown("cannot be tried: see above")];
    }
    let pooled = source.url.port == 6543
        || matches!(&source.url.host, Host::Tcp(host) if host.contains("pooler") || host.contains("bouncer"));
    let trouble = match pooled {
        true => Trouble::bad(format!("no replication connection, for it leads to a pooler: {}", cause(fault)))
            .by_hand("let DATABASE_URL lead to the server itself (mostly port 5432)"),
        false => Trouble::fault(fault),
    };
    vec![trouble]
}

fn cause(fault: &Fault) -> &str {
    match fault {
        Fault::Retry { cause } | Fault::Stop { cause, .. } | Fault::Park { cause, .. } => cause,
    }
}

pub(super) fn rights(case: &Case) -> Vec<Trouble> {
    let facts = facts(case);
    let lacking = facts.tables.iter().filter(|t| !t.usage || !t.rights.iter().any(|right| right == "select"));
    let (mut schemas, mut tables) = (BTreeSet::new(), Vec::new());
    for table in lacking {
        if !table.usage {
            schemas.insert(table.schema.clone());
        }
        tables.push(TableName::new(table.schema.as_str(), table.name.as_str()));
    }
    if tables.is_empty() {
        return Vec::new();
    }
    let names: Vec<String> = tables.iter().map(TableName::to_string).collect();
    let role = &facts.server.role;
    let grants = remedy::may_read(role, &Vec::from_iter(schemas), &tables);
    let cause = format!("role {role} may not read {} at the source", crate::app::judge::few(&names, ", "));
    vec![Trouble::bad(cause).sql(Side::Source, grants)]
}

pub(super) fn hidden(case: &Case) -> Vec<Trouble> {
    let facts = facts(case);
    let Server { superuser, bypass_rls, role, .. } = &facts.server;
    let hides = facts.tables.iter().any(|table| table.rls && (table.force_rls || !table.mine));
    one((hides && !superuser && !bypass_rls).then(|| {
        let names: Vec<&str> = facts.tables.iter().filter(|table| table.rls).map(|table| table.name.as_str()).collect();
        Trouble::bad(format!("row level security hides rows of {} from role {role}", names.join(", ")))
            .sql(Side::Source, [format!("alter role {} bypassrls", ident(role))])
            .decide()
    }))
}

/// We answer well within half of it, and it must outlast a pause of the network.
const ANSWER_MS: i64 = 10_000;

pub(super) fn sender_timeout(case: &Case) -> Vec<Trouble> {
    let millis = facts(case).server.sender_timeout_ms;
    one((millis > 0 && millis < ANSWER_MS).then(|| {
        Trouble::warn(format!("wal_sender_timeout is {millis} ms: a short pause of the network cuts the stream"))
            .sql(Side::Source, ["alter system set wal_sender_timeout = '60s'", RELOAD])
    }))
}

pub(super) fn decoding(case: &Case) -> Vec<Trouble> {
    let kb = facts(case).server.decoding_kb;
    one((kb > 0 && kb < 64 << 10).then(|| {
        Trouble::warn(format!(
            "logical_decoding_work_mem is {kb} kB: the source writes larger transactions to disk first"
        ))
        .sql(Side::Source, ["alter system set logical_decoding_work_mem = '64MB'", RELOAD])
    }))
}

pub(super) fn idle_slot(case: &Case) -> Vec<Trouble> {
    let seconds = facts(case).server.idle_slot_timeout_s.unwrap_or(0);
    one((seconds > 0).then(|| {
        Trouble::warn(format!("the source gives up slots that nobody has read for {seconds} s"))
            .sql(Side::Source, ["alter system set idle_replication_slot_timeout = 0", RELOAD])
    }))
}

/// Less is used up within minutes on a busy server.
const KEEP_MB: i64 = 1024;

pub(super) fn keep(case: &Case) -> Vec<Trouble> {
    match facts(case).server.slot_keep_mb {
        limit if limit < 0 => Vec::new(),
        limit if limit < KEEP_MB => vec![
            Trouble::warn(format!(
                "max_slot_wal_keep_size is {limit} MB: after a short pause the slot is lost, and both sides are compared"
            ))
            .sql(Side::Source, ["alter system set max_slot_wal_keep_size = '10GB'", RELOAD]),
        ],
        limit => vec![Trouble::ok(format!("up to {limit} MB of WAL are kept for the slot"))],
    }
}

/// Longer than any transaction should take between its two phases.
const FORGOTTEN: f64 = 60.0;

pub(super) fn prepared(case: &Case) -> Vec<Trouble> {
    let facts = facts(case);
    // A slot is only made once all that was open has ended.
    let waits = facts.slot.is_none();
    let old = facts.server.prepared.iter().filter(|one| waits || one.seconds > FORGOTTEN);
    old.map(|one| {
        let gid = crate::pg::quote::literal(&one.gid);
        let cause = format!(
            "prepared transaction {} is open since {:.0} s: no slot can be made, and WAL is kept",
            one.gid, one.seconds
        );
        Trouble::warn(cause)
            .sql(Side::Source, [format!("rollback prepared {gid}")])
            .or(format!("or: commit prepared {gid};"))
            .decide()
    })
    .collect()
}

/// Open so long, it is more likely forgotten than at work.
const LONG: f64 = 600.0;

pub(super) fn open(case: &Case) -> Vec<Trouble> {
    let facts = facts(case);
    let old = facts.server.open.iter().filter(|one| one.seconds > LONG);
    old.map(|one| {
        let (who, state) = (one.application.as_deref().unwrap_or("?"), one.state.as_deref().unwrap_or("?"));
        let cause =
            format!("a transaction of pid {} ({who}, {state}) is open since {:.0} min", one.pid, one.seconds / 60.0);
        let does =
            if one.writes { "no slot can be made before it ends, and WAL is kept" } else { "dead rows are kept" };
        Trouble::warn(format!("{cause}: {does}")).sql(Side::Source, [remedy::terminate(&one.pid.to_string())]).decide()
    })
    .collect()
}

pub(super) fn choice(case: &Case) -> Vec<Trouble> {
    let Ok(source) = &case.source else { return Vec::new() };
    let mut all: Vec<Trouble> = source.choice.iter().map(Trouble::fault).collect();
    if all.is_empty() && source.tables.is_empty() {
        all.extend(crate::app::preflight::none_chosen(&case.settings).err().as_ref().map(Trouble::fault));
    }
    all
}

/// Tables that were chosen and cannot be, for one of these reasons.
fn left_out(case: &Case, reasons: &[Why]) -> Vec<Trouble> {
    let Ok(source) = &case.source else { return Vec::new() };
    let those = source.left_out.iter().filter(|left_out| reasons.contains(&left_out.why));
    those
        .map(|left_out| {
            let name = &left_out.table;
            let trouble = Trouble::warn(format!("{left_out}, so it is not replicated")).at(name);
            let exclude = toml::Value::from(vec![name.to_string()]);
            let or = format!("or leave it out: tables.exclude = {exclude}");
            match left_out.why {
                Why::Unlogged => trouble.sql(Side::Source, [remedy::set_logged(name)]).lock().or(or),
                Why::NoIdentity => trouble.sql(Side::Source, [remedy::identity(name, "default")]).lock().or(or),
                Why::GeneratedIdentity => trouble.sql(Side::Source, [remedy::identity(name, "default")]).lock().or(or),
                _ => trouble.by_hand(format!("{}; {or}", crate::pg::catalog::fix(name, left_out.why))),
            }
        })
        .collect()
}

pub(super) fn no_key(case: &Case) -> Vec<Trouble> {
    left_out(case, &[Why::NoPrimaryKey, Why::GeneratedKey, Why::Inherits])
}

pub(super) fn unlogged(case: &Case) -> Vec<Trouble> {
    let mut all = left_out(case, &[Why::Unlogged]);
    all.extend(partitions(case, |part| part.persistence == "u").map(|part| {
        Trouble::bad(format!("partition {part} is unlogged, so its changes are not in the WAL"))
            .at(&part)
            .sql(Side::Source, [remedy::set_logged(&part)])
            .lock()
    }));
    all
}

pub(super) fn identity(case: &Case) -> Vec<Trouble> {
    let mut all = left_out(case, &[Why::NoIdentity, Why::DeferrableKey, Why::PartIdentity, Why::GeneratedIdentity]);
    all.extend(partitions(case, |part| part.identity == "n").map(|part| {
        Trouble::bad(format!("partition {part} has replica identity nothing: published, it refuses updates"))
            .at(&part)
            .sql(Side::Source, [remedy::identity(&part, "default")])
            .lock()
    }));
    all
}

fn partitions(case: &Case, has: fn(&crate::doctor::facts::Partition) -> bool) -> impl Iterator<Item = TableName> {
    let all = facts(case).tables.iter().flat_map(|table| &table.partitions).filter(|part| part.leaf);
    all.filter(move |part| has(part)).map(|part| TableName::new(part.schema.as_str(), part.name.as_str()))
}

pub(super) fn not_tables(case: &Case) -> Vec<Trouble> {
    let Ok(source) = &case.source else { return Vec::new() };
    let trouble = |(name, kind): &(TableName, &'static str)| {
        let exclude = toml::Value::from(vec![name.to_string()]);
        Trouble::warn(format!("{name} is a {kind}, whose rows are not in the WAL, so it is not replicated"))
            .at(name)
            .by_hand(format!("leave it out: tables.exclude = {exclude}"))
    };
    source.not_tables.iter().map(trouble).collect()
}

/// What stands in the way of the journal, and what it cannot see.
pub(super) fn journal(case: &Case) -> Vec<Trouble> {
    let Some((source, _)) = case.here() else { return Vec::new() };
    let setup = "as owner of the tables: lockstep setup source --capture journal --apply";
    match (&source.journal, case.settings.source.create) {
        (None, _) => vec![Trouble::ok("changes are read from a slot: no journal is needed")],
        (Some(Err(fault)), _) => vec![Trouble::fault(fault)],
        (Some(Ok(plan)), _) if plan.statements.is_empty() => vec![Trouble::ok(
            "the journal's triggers are there; sessions with session_replication_role = replica are not seen by them: \
             what they change, the next comparison finds",
        )],
        (Some(Ok(plan)), true) if plan.began && !plan.unwatched.is_empty() => {
            let missed = |table: &TableName| {
                Trouble::warn(format!(
                    "{table} lacks triggers of the journal, or they are disabled: changes are missed"
                ))
                .at(table)
                .by_hand("start Lockstep: it makes them anew, and compares the table")
            };
            plan.unwatched.iter().map(missed).collect()
        }
        (Some(Ok(_)), true) => vec![Trouble::ok("the first start makes the journal and its triggers")],
        (Some(Ok(_)), false) => vec![Trouble::bad("triggers of the journal are missing at the source").by_hand(setup)],
    }
}
