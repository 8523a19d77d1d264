//! The target as a whole: whether it answers, whether our SQL is in it, and whose copy it holds.

use jiff::Timestamp;
use serde_json::json;

use crate::app::preflight::other_version;
use crate::app::recovery::{self, SlotFacts};
use crate::app::same_source;
use crate::apply::request_fault;
use crate::capture::slot::server as judge_server;
use crate::doctor::case::{Case, Rest};
use crate::doctor::facts::{Facts, OpenSchema as Open};
use crate::doctor::finding::{Side, Trouble};
use crate::pg::quote::ident;
use crate::remedy;
use crate::types::{ApiKeyKind, Lsn, Position};

/// Codes that say the request was understood, and refused for a reason that has its own check.
const OTHERS: [&str; 4] = ["PGRST202", "PGRST106", "42501", "42883"];

fn refused_key(case: &Case) -> Option<Trouble> {
    let Rest::Failed(failure) = &case.target.rest else { return None };
    let code = failure.code.as_deref().unwrap_or("");
    let refused =
        matches!(code, "PGRST301" | "PGRST302" | "PGRST303") || code.is_empty() && failure.status == Some(401);
    refused.then(|| Trouble::fault(&request_fault(failure, 0)))
}

pub(super) fn reach(case: &Case) -> Vec<Trouble> {
    match &case.target.rest {
        Rest::NotSet(trouble) => vec![trouble.clone()],
        Rest::Failed(failure) if !failure.code.as_deref().is_some_and(|code| OTHERS.contains(&code)) => {
            if refused_key(case).is_some() {
                return Vec::new();
            }
            let trouble = Trouble::fault(&request_fault(failure, 0));
            match trouble.fix {
                Some(_) => vec![trouble],
                None => {
                    vec![trouble.by_hand("look whether SUPABASE_URL is right, and the project awake and reachable")]
                }
            }
        }
        _ => Vec::new(),
    }
}

/// Time enough to make another one.
const SOON: i64 = 30 * 86_400;

pub(super) fn key(case: &Case) -> Vec<Trouble> {
    if let Some(problem) = &case.key {
        return vec![Trouble::bad(problem.to_string()).by_hand("set SUPABASE_KEY to it")];
    }
    if let Some(trouble) = refused_key(case) {
        return vec![trouble];
    }
    let kind = case.settings.supabase.key.as_ref().map(crate::types::ApiKey::kind);
    let Some(ApiKeyKind::ServiceJwt { expires: Some(at) }) = kind else { return Vec::new() };
    if at.as_second() - Timestamp::now().as_second() > SOON {
        return Vec::new();
    }
    vec![
        Trouble::warn(format!("the service_role key expires at {at}"))
            .by_hand("set SUPABASE_KEY to a secret key (sb_secret_…), which does not expire"),
    ]
}

pub(super) fn https(case: &Case) -> Vec<Trouble> {
    let exposed = case.settings.supabase.url.as_ref().filter(|url| url.is_exposed());
    let trouble = |url| {
        Trouble::warn(format!("the key goes to {url} unencrypted")).by_hand("let SUPABASE_URL begin with https://")
    };
    exposed.map(trouble).into_iter().collect()
}

pub(super) fn exposed(case: &Case) -> Vec<Trouble> {
    let hidden = case.target.exposed.iter().any(|(schema, exposed)| schema == "public" && !exposed);
    let trouble = Trouble::bad("PostgREST does not serve schema public, where our functions are")
        .by_hand("add public to the exposed schemas: Project Settings > Data API > Exposed schemas");
    if hidden { vec![trouble] } else { Vec::new() }
}

pub(super) fn installed(case: &Case) -> Vec<Trouble> {
    let Rest::Failed(failure) = &case.target.rest else { return Vec::new() };
    if !exposed(case).is_empty() {
        return vec![Trouble::unknown("cannot be seen: schema public is not exposed")];
    }
    let doors = case.target.listing.as_ref().map_or(&[][..], |listing| &listing.doors);
    match failure.code.as_deref() {
        Some("PGRST202" | "42883") => {}
        Some("42501") => {
            return vec![
                Trouble::fault(&request_fault(failure, 0)).by_hand(format!("{}, for its grants", remedy::INSTALL)),
            ];
        }
        _ => return Vec::new(),
    }
    // Over a direct connection it is seen whether it is there after all.
    if case.target.facts.as_ref().is_some_and(|facts| facts.doors.iter().any(|door| door.name.contains("_examine("))) {
        let reload = ["notify pgrst, 'reload schema'"];
        return vec![
            Trouble::bad("PostgREST does not know our functions yet: its schema cache is stale")
                .sql(Side::Target, reload),
        ];
    }
    let what = match doors {
        [] => "our SQL is not installed in Supabase (or PostgREST has not seen it yet)",
        _ => "the SQL in Supabase is of an older version (or PostgREST has not seen all of it yet)",
    };
    vec![Trouble::bad(what).by_hand(remedy::INSTALL).or("; if it was run just now: notify pgrst, 'reload schema';")]
}

fn there(case: &Case) -> &Facts {
    static NONE: std::sync::LazyLock<Facts> = std::sync::LazyLock::new(Facts::default);
    case.target.facts.as_ref().unwrap_or(&NONE)
}

pub(super) fn version(case: &Case) -> Vec<Trouble> {
    let installed = there(case).installed.map_or(0, i64::from);
    other_version(installed).as_ref().map(Trouble::fault).into_iter().collect()
}

pub(super) fn direct(case: &Case) -> Vec<Trouble> {
    match &case.target.direct {
        None => Vec::new(),
        Some(Ok(())) => vec![Trouble::ok("the direct connection to Supabase's Postgres works")],
        Some(Err(fault)) => vec![Trouble::fault(fault)],
    }
}

pub(super) fn server(case: &Case) -> Vec<Trouble> {
    let old = judge_server::version(there(case).server.version).is_err();
    let trouble = || {
        let major = there(case).server.version / 10_000;
        Trouble::bad(format!("Supabase's Postgres is version {major}; Lockstep needs 14 or newer"))
            .by_hand("upgrade it: Project Settings > Infrastructure")
    };
    if old { vec![trouble()] } else { Vec::new() }
}

pub(super) fn read_only(case: &Case) -> Vec<Trouble> {
    let server = &there(case).server;
    let trouble = || {
        Trouble::bad("Supabase has set the database read only, as it does when its disk is nearly full")
            .sql(Side::Target, remedy::writable(&server.database))
            .or("once there is room again: Database > Settings > Disk")
            .decide()
    };
    if server.read_only { vec![trouble()] } else { Vec::new() }
}

pub(super) fn encoding(case: &Case) -> Vec<Trouble> {
    let encoding = &there(case).server.encoding;
    let trouble = || {
        Trouble::bad(format!("the target's encoding is {encoding}: it cannot hold every text"))
            .by_hand("use a database with encoding UTF8, as every Supabase project has it")
    };
    if encoding == "UTF8" { Vec::new() } else { vec![trouble()] }
}

pub(super) fn doors(case: &Case) -> Vec<Trouble> {
    let mut all = Vec::new();
    for door in &there(case).doors {
        if !door.strangers.is_empty() {
            let who: Vec<String> =
                door.strangers.iter().map(|role| if role == "public" { role.clone() } else { ident(role) }).collect();
            let revoke = format!("revoke all on function {} from {}", door.name, who.join(", "));
            let cause =
                format!("{} may call {} in Supabase, which writes past every policy", who.join(" and "), door.name);
            all.push(Trouble::bad(cause).sql(Side::Target, [revoke]));
        }
        if door.service == Some(false) {
            let grant = format!("grant execute on function {} to service_role", door.name);
            all.push(Trouble::bad(format!("service_role may not call {}", door.name)).sql(Side::Target, [grant]));
        }
    }
    all
}

pub(super) fn door_settings(case: &Case) -> Vec<Trouble> {
    let changed = there(case).doors.iter().filter(|door| {
        let has = |name: &str| door.settings.iter().flatten().any(|setting| setting.starts_with(name));
        !door.definer || !has("search_path=pg_catalog, pg_temp") || !has("statement_timeout=")
    });
    let names: Vec<&str> = changed.map(|door| door.name.as_str()).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let cause = format!("{} lost settings: search_path, statement_timeout or security definer", names.join(", "));
    vec![Trouble::bad(cause).by_hand(remedy::INSTALL)]
}

/// While the target's own triggers and checks run, they find what is in these schemas, with our functions' rights.
pub(super) fn strangers(case: &Case) -> Vec<Trouble> {
    let trouble = |open: &Open| {
        let (schema, role) = (ident(&open.schema), &open.role);
        let cause =
            format!("{role} may create functions in schema {}, which triggers and checks may call", open.schema);
        let role = if role == "public" { role.clone() } else { ident(role) };
        Trouble::warn(cause).sql(Side::Target, [format!("revoke create on schema {schema} from {role}")]).decide()
    };
    there(case).open_schemas.iter().map(trouble).collect()
}

fn checkpoint(case: &Case) -> Option<(Position, &serde_json::Value)> {
    let memory = there(case).memory.as_ref()?;
    Some((Position { major: memory.major, minor: memory.minor }, &memory.source))
}

pub(super) fn another_source(case: &Case) -> Vec<Trouble> {
    let (Some((source, _)), Some((checkpoint, known))) = (case.here(), checkpoint(case)) else { return Vec::new() };
    let Ok(system) = &source.replication else { return vec![Trouble::unknown("which source this is, is not known")] };
    let here = json!({"system": system.identifier, "slot": case.settings.source.slot});
    let judged = same_source(known, &here, checkpoint == Position::default());
    judged.err().as_ref().map(Trouble::fault).into_iter().collect()
}

pub(super) fn history(case: &Case) -> Vec<Trouble> {
    let (Some((source, facts)), Some((checkpoint, known))) = (case.here(), checkpoint(case)) else { return Vec::new() };
    let (Ok(system), Some(wal_end)) = (&source.replication, &facts.server.wal_end) else { return Vec::new() };
    if !another_source(case).is_empty() {
        return vec![Trouble::unknown("it is another source's")];
    }
    let lsn = |text: &str| text.parse::<Lsn>().unwrap_or_default();
    let found = recovery::Facts {
        checkpoint,
        known_timeline: known["timeline"].as_u64().and_then(|timeline| u32::try_from(timeline).ok()),
        timeline: system.timeline,
        wal_end: lsn(wal_end),
        slot: facts.slot.as_ref().map(|slot| SlotFacts {
            confirmed: lsn(slot.confirmed.as_deref().unwrap_or("0/0")),
            lost: slot.wal_status.as_deref() == Some("lost"),
        }),
        publication: facts.publication.is_some(),
    };
    let trouble = |broken: recovery::Broken| {
        Trouble::warn(broken.to_string()).by_hand("start Lockstep: it begins a new stream and compares every table")
    };
    recovery::judge(&found).map(trouble).into_iter().collect()
}
