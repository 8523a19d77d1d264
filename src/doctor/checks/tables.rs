//! The chosen tables as they are over there. What also stops the service is said in its words (`app::judge`).

use crate::app::judge::{self, Complaint, Finding};
use crate::config::Existing;
use crate::doctor::case::{Case, Pair};
use crate::doctor::facts::{self, Facts, Partition};
use crate::doctor::finding::{Side, Trouble};
use crate::pg::quote::{ident, literal, table as quoted};
use crate::remedy;
use crate::types::{Table, TableName};

pub(super) fn there(case: &Case) -> &Facts {
    static NONE: std::sync::LazyLock<Facts> = std::sync::LazyLock::new(Facts::default);
    case.target.facts.as_ref().unwrap_or(&NONE)
}

/// What the service is told of a table when it says hello.
fn finding(case: &Case, table: &Table, there: Option<&facts::Table>) -> Finding {
    let Some(found) = there else { return Finding::default() };
    let chosen = |name: &String| table.columns.iter().any(|column| &column.name == name);
    let names = |which: &dyn Fn(&facts::Column) -> bool| -> Vec<String> {
        found.columns.iter().filter(|column| which(column)).map(|column| column.name.clone()).collect()
    };
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    let all = ["select", "insert", "update", "delete", "truncate"];
    Finding {
        schema: found.schema.clone(),
        name: found.name.clone(),
        exists: true,
        missing_rights: all.map(String::from).into_iter().filter(|right| !found.rights.contains(right)).collect(),
        generated_columns: names(&|column| !column.generated.is_empty() && chosen(&column.name)),
        required_columns: names(&|column| {
            let filled = column.default || !column.identity.is_empty() || !column.generated.is_empty();
            column.not_null && !filled && !chosen(&column.name)
        }),
        has_key: found
            .uniques
            .iter()
            .any(|unique| unique.plain && unique.immediate && sorted(&unique.columns) == sorted(&table.key)),
        other_key: found.uniques.iter().any(|unique| unique.primary),
        empty: !found.occupied.unwrap_or(false),
        begun: case.target.facts.as_ref().and_then(|facts| facts.memory.as_ref()).is_some_and(|memory| {
            memory.begun.iter().any(|named| named.schema == table.name.schema && named.name == table.name.name)
        }),
        ..Finding::default()
    }
}

/// What one of the service's own checks says of every table; `settle` says how far its remedy may be run.
fn judged(
    case: &Case,
    check: fn(&Table, &Finding) -> Option<Complaint>,
    settle: fn(Trouble) -> Trouble,
) -> Vec<Trouble> {
    let facts = there(case);
    let trouble = |table: &Table| {
        let Complaint { cause, sql, or } = check(table, &finding(case, table, facts.table(&table.name)))?;
        let trouble = Trouble::bad(cause).at(&table.name);
        Some(settle(match sql.is_empty() {
            true => trouble.by_hand(or),
            false => trouble.sql(Side::Target, sql).or(or.trim_start()),
        }))
    };
    // A table that is not there lacks everything.
    case.tables().iter().filter(|t| facts.table(&t.name).is_some()).filter_map(trouble).collect()
}

/// What is known of a table over there.
enum Known {
    /// Neither our SQL nor PostgREST's description tells.
    Nothing,
    Missing,
    Columns(Vec<String>),
}

fn known(case: &Case, name: &TableName) -> Known {
    let columns = match (&case.target.facts, &case.target.listing) {
        (Some(facts), _) => facts.table(name).map(|table| table.columns.iter().map(|c| c.name.clone()).collect()),
        (None, Some(listing)) if listing.tells(&name.schema) => listing.columns(name).map(<[String]>::to_vec),
        _ => return Known::Nothing,
    };
    columns.map_or(Known::Missing, Known::Columns)
}

fn untold(case: &Case) -> Option<Vec<Trouble>> {
    let none = case.tables().iter().any(|table| matches!(known(case, &table.name), Known::Nothing));
    none.then(|| vec![Trouble::unknown("Supabase could not be looked at")])
}

pub(super) fn missing(case: &Case) -> Vec<Trouble> {
    if let Some(untold) = untold(case) {
        return untold;
    }
    let absent = case.tables().iter().filter(|table| matches!(known(case, &table.name), Known::Missing));
    let said = absent.filter_map(|table| {
        let Complaint { cause, or, .. } = judge::missing(table, &Finding::default())?;
        let trouble = Trouble::bad(cause).at(&table.name);
        // The script makes every chosen table that is not there: run once for all of them.
        Some(match case.source.as_ref().ok().and_then(|source| source.script.as_ref()) {
            Some(script) => trouble.sql(Side::Target, [script.clone()]).said(or),
            None => trouble.by_hand(or),
        })
    });
    said.collect()
}

pub(super) fn columns(case: &Case) -> Vec<Trouble> {
    if let Some(untold) = untold(case) {
        return untold;
    }
    let trouble = |table: &Table| {
        let Known::Columns(known) = known(case, &table.name) else { return None };
        let missing = table.columns.iter().map(|column| column.name.clone()).filter(|name| !known.contains(name));
        let finding = Finding { missing_columns: missing.collect(), ..Finding::default() };
        let Complaint { cause, sql, or } = judge::columns(table, &finding)?;
        Some(Trouble::bad(cause).at(&table.name).sql(Side::Target, sql).or(or.trim_start()).lock())
    };
    case.tables().iter().filter_map(trouble).collect()
}

pub(super) fn generated(case: &Case) -> Vec<Trouble> {
    judged(case, judge::generated, |trouble| trouble.lock().decide())
}

pub(super) fn required(case: &Case) -> Vec<Trouble> {
    judged(case, judge::required, |trouble| trouble.lock().decide())
}

pub(super) fn key(case: &Case) -> Vec<Trouble> {
    judged(case, judge::key, Trouble::lock)
}

pub(super) fn unlogged(case: &Case) -> Vec<Trouble> {
    let trouble = |name: TableName, persistence: &str| {
        (persistence == "u").then(|| {
            Trouble::bad(format!("{name} is unlogged in Supabase: a crash of its server empties it"))
                .at(&name)
                .sql(Side::Target, [remedy::set_logged(&name)])
                .lock()
        })
    };
    let pairs = case.pairs();
    let each = pairs.iter().flat_map(|Pair { table, there, .. }| {
        let parts = there.partitions.iter().filter(|part| part.leaf);
        let parts = parts
            .filter_map(|part| trouble(TableName::new(part.schema.as_str(), part.name.as_str()), &part.persistence));
        trouble(table.name.clone(), &there.persistence).into_iter().chain(parts)
    });
    each.collect()
}

pub(super) fn rights(case: &Case) -> Vec<Trouble> {
    let mut all: Vec<Trouble> = Vec::new();
    let mut schemas: Vec<&str> = Vec::new();
    for Pair { there, .. } in case.pairs() {
        if !there.usage && !schemas.contains(&there.schema.as_str()) {
            schemas.push(&there.schema);
            let grant = format!("grant usage on schema {} to service_role", ident(&there.schema));
            let cause = format!("service_role may not use schema {} in Supabase", there.schema);
            all.push(Trouble::bad(cause).sql(Side::Target, [grant]));
        }
    }
    all.extend(judged(case, judge::rights, |trouble| trouble));
    all
}

pub(super) fn occupied(case: &Case) -> Vec<Trouble> {
    if case.settings.copy.existing == Existing::Keep {
        return vec![Trouble::ok("rows that are there already are kept (copy.existing)")];
    }
    judged(case, judge::occupied, Trouble::decide)
}

pub(super) fn owner_rights(case: &Case) -> Vec<Trouble> {
    let owner = &there(case).server.owner;
    let trouble = |pair: &Pair<'_>| {
        let lacks = &pair.there.owner_lacks;
        (!lacks.is_empty()).then(|| {
            let cause = format!("{owner}, who owns our functions, may not {} on {}", lacks.join(", "), pair.table.name);
            Trouble::bad(cause)
                .at(&pair.table.name)
                .sql(Side::Target, [remedy::grant(lacks, &pair.table.name, &ident(owner))])
        })
    };
    case.pairs().iter().filter_map(trouble).collect()
}

pub(super) fn rls(case: &Case) -> Vec<Trouble> {
    let server = &there(case).server;
    let trouble = |pair: &Pair<'_>| {
        let table = pair.there;
        let bound = table.rls && !server.owner_bypasses_rls && (table.force_rls || !table.mine);
        let cause =
            || format!("row level security of {} applies to {}, who owns our functions", pair.table.name, server.owner);
        let fix = || match table.mine {
            true => format!("alter table {} no force row level security", quoted(&pair.table.name)),
            false => format!("alter role {} bypassrls", ident(&server.owner)),
        };
        bound.then(|| Trouble::bad(cause()).at(&pair.table.name).sql(Side::Target, [fix()]).decide())
    };
    case.pairs().iter().filter_map(trouble).collect()
}

pub(super) fn public(case: &Case) -> Vec<Trouble> {
    let trouble = |pair: &Pair<'_>| {
        let open = pair.there.anon && !pair.there.rls;
        let cause =
            || format!("whoever holds the publishable key may read {}: it has no row level security", pair.table.name);
        let enable = || format!("alter table {} enable row level security", quoted(&pair.table.name));
        // Apps that read it with that key see nothing from then on, until a policy lets them.
        open.then(|| Trouble::warn(cause()).at(&pair.table.name).sql(Side::Target, [enable()]).decide())
    };
    case.pairs().iter().filter_map(trouble).collect()
}

/// Only what Supabase itself writes asks a sequence there, for replicated rows bring their numbers: so this is no
/// trouble as long as Supabase only follows.
pub(super) fn sequences(case: &Case) -> Vec<Trouble> {
    let mut sets = Vec::new();
    for Pair { there, .. } in case.pairs() {
        for sequence in &there.sequences {
            let behind = |highest: &f64| sequence.last.is_none_or(|last| (last as f64) < *highest);
            if let Some(highest) = sequence.highest.filter(behind) {
                sets.push(format!("select setval({}, {highest:.0})", literal(&sequence.name)));
            }
        }
    }
    if sets.is_empty() {
        return Vec::new();
    }
    let what = format!("{} behind their columns; set them before Supabase makes rows of its own", sets.len());
    vec![Trouble::ok(what).sql(Side::Target, sets)]
}

pub(super) fn partitions(case: &Case) -> Vec<Trouble> {
    let mut all = Vec::new();
    for Pair { table, here, there } in case.pairs() {
        let default = |part: &Partition| part.bound.as_deref() == Some("DEFAULT");
        if !here.partitioned || !there.partitioned || there.partitions.iter().any(default) {
            continue;
        }
        let has = |bound: &Option<String>| there.partitions.iter().any(|part| &part.bound == bound);
        for part in here.partitions.iter().filter(|part| part.direct && !has(&part.bound)) {
            let (name, bound) =
                (TableName::new(part.schema.as_str(), part.name.as_str()), part.bound.as_deref().unwrap_or(""));
            let cause = format!("{} has no partition in Supabase {}", table.name, bound.to_lowercase());
            let trouble = Trouble::bad(cause).at(&table.name);
            let create = format!("create table {} partition of {} {bound}", quoted(&name), quoted(&table.name));
            all.push(match part.leaf {
                true => trouble.sql(Side::Target, [create]),
                false => trouble.by_hand("run in Supabase's SQL editor what `lockstep schema` prints for it"),
            });
        }
    }
    all
}
