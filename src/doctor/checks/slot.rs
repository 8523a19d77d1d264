//! The replication slot.

use crate::capture::slot::{self, judge_kind};
use crate::doctor::case::Case;
use crate::doctor::facts::Slot;
use crate::doctor::finding::{Side, Trouble};
use crate::remedy;

fn slot(case: &Case) -> Option<&Slot> {
    case.here().and_then(|(_, facts)| facts.slot.as_ref())
}

fn name(case: &Case) -> &str {
    &case.settings.source.slot
}

pub(super) fn free(case: &Case) -> Vec<Trouble> {
    let Some((_, facts)) = case.here() else { return Vec::new() };
    let full = facts.slot.is_none() && facts.server.slots >= facts.server.max_slots;
    let trouble = Trouble::bad(slot::NO_FREE_SLOT)
        .sql(Side::Source, [remedy::MORE_SLOTS])
        .restart()
        .or("; or drop a slot that nobody needs: select pg_drop_replication_slot('…')");
    if full { vec![trouble] } else { Vec::new() }
}

pub(super) fn there(case: &Case) -> Vec<Trouble> {
    let Some((_, facts)) = case.here() else { return Vec::new() };
    match (&facts.slot, case.settings.source.create) {
        (Some(_), _) => Vec::new(),
        (None, true) => vec![Trouble::ok(format!("the first start makes slot {}", name(case)))],
        // Made long before it is read, it holds WAL for nothing.
        (None, false) => vec![
            Trouble::bad(format!("the source has no replication slot {}", name(case)))
                .sql(Side::Source, [remedy::create_slot(name(case), facts.server.version)])
                .decide(),
        ],
    }
}

pub(super) fn kind(case: &Case) -> Vec<Trouble> {
    let (Some((_, facts)), Some(slot)) = (case.here(), slot(case)) else { return Vec::new() };
    let plugin = if slot.kind == "logical" { slot.plugin.as_deref().unwrap_or("none") } else { "none: it is physical" };
    let database = slot.database.as_deref().unwrap_or("none");
    let judged = judge_kind(name(case), plugin, database, &facts.server.database);
    let drop = || [remedy::drop_slot(name(case))];
    judged
        .err()
        .map(|fault| {
            Trouble::fault(&fault)
                .sql(Side::Source, drop())
                .or("or choose another name for the slot: LOCKSTEP_SLOT (source.slot in lockstep.toml)")
                .decide()
        })
        .into_iter()
        .collect()
}

pub(super) fn lost(case: &Case) -> Vec<Trouble> {
    let Some(slot) = slot(case) else { return Vec::new() };
    let gone = slot.wal_status.as_deref() == Some("lost") || slot.invalid.is_some();
    if gone {
        let why = slot.invalid.as_ref().map_or(String::new(), |why| format!(" ({why})"));
        let trouble = Trouble::fault(&slot::lost_slot(name(case)));
        let what = format!("{}{why}", trouble.what);
        let drop = [remedy::drop_slot(name(case))];
        return vec![Trouble { what, ..trouble }.sql(Side::Source, drop).or("then start: both sides are compared")];
    }
    if slot.wal_status.as_deref() == Some("unreserved") {
        let left = slot.safe_bytes.unwrap_or(0).max(0) >> 20;
        return vec![
            Trouble::warn(format!("slot {} is about to be lost: {left} MiB of WAL are left to it", name(case)))
                .by_hand("start Lockstep now, or raise max_slot_wal_keep_size at the source"),
        ];
    }
    Vec::new()
}

pub(super) fn used(case: &Case) -> Vec<Trouble> {
    let Some(Slot { pid: Some(pid), application, .. }) = slot(case) else { return Vec::new() };
    let who = application.as_deref().unwrap_or("");
    if who == "lockstep" {
        return vec![Trouble::ok(format!("Lockstep reads the slot (pid {pid})"))];
    }
    vec![
        Trouble::bad(format!("slot {} is in use by pid {pid} ({who})", name(case)))
            .sql(Side::Source, [remedy::terminate(&pid.to_string())])
            .or("once what it belongs to has stopped; or use another slot: LOCKSTEP_SLOT")
            .decide(),
    ]
}

/// Half an hour of a busy server; what is behind by more is behind for a reason.
const MUCH: f64 = (4u64 << 30) as f64;

pub(super) fn retained(case: &Case) -> Vec<Trouble> {
    let Some(bytes) = slot(case).and_then(|slot| slot.retained) else { return Vec::new() };
    if bytes <= MUCH {
        return Vec::new();
    }
    let cause = format!("the source keeps {:.1} GiB of WAL for slot {}", bytes / f64::from(1 << 30), name(case));
    vec![
        Trouble::warn(cause)
            .sql(Side::Source, [remedy::drop_slot(name(case))])
            .said(
                "start Lockstep, so that it is read; or, if nobody needs the slot, at the source: ".to_owned()
                    + &remedy::drop_slot(name(case))
                    + ";",
            )
            .decide(),
    ]
}
