//! What is said when a slot cannot be had, and how it is mended.

use crate::pg::{Client, quote};
use crate::remedy;
use crate::types::Fault;

pub(super) fn wal_level(level: &str) -> Fault {
    Fault::stop(
        format!("the source's wal_level is {level}; a replication slot needs logical"),
        format!("{}; {}", remedy::WAL_LEVEL, remedy::RESTART),
    )
}

/// Retry: a predecessor that was killed holds its slot for some milliseconds more.
pub(super) fn in_use(slot: &str, pid: &str, application: &str) -> Fault {
    Fault::retry(format!("slot {slot} is in use by pid {pid} ({application})"))
}

pub(crate) fn lost_slot(slot: &str) -> Fault {
    Fault::stop(
        format!("slot {slot} is lost: the source has removed WAL that it needs (max_slot_wal_keep_size)"),
        format!("{}; then start again: both sides are compared and repaired", remedy::drop_slot(slot)),
    )
}

pub(super) fn gone_slot(slot: &str) -> Fault {
    Fault::stop(
        format!("the source has no replication slot {slot}: it was dropped"),
        "let it be created anew (lockstep setup source), then compare and repair both sides: lockstep sync",
    )
}

const OLDEST: &str = "select pid, coalesce(application_name, '')::text, xact_start::text from pg_stat_activity \
     where xact_start is not null and backend_xid is not null and pid <> pg_backend_pid() order by xact_start limit 1";

pub(super) async fn waits(client: &Client, slot: &str) -> Fault {
    let oldest = match client.query_opt(OLDEST, &[]).await {
        Ok(Some(row)) => {
            let (pid, name, since): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
            format!("; the oldest is pid {pid} ({name}), open since {since}")
        }
        _ => String::new(),
    };
    Fault::retry(format!("slot {slot} can be created once every transaction that writes now has ended{oldest}"))
}

pub(crate) const NO_FREE_SLOT: &str = "the source has no free replication slot (max_replication_slots)";

const UNUSED: &str = "select slot_name::text from pg_replication_slots where not active order by 1 limit 5";

pub(super) async fn no_free_slot(client: &Client) -> Fault {
    let unused = client.query(UNUSED, &[]).await.unwrap_or_default();
    let unused: Vec<String> = unused.iter().map(|row| quote::literal(row.get(0))).collect();
    let drop = match unused.as_slice() {
        [] => String::new(),
        names => format!("; or drop one that nobody needs: select pg_drop_replication_slot({})", names.join(" | ")),
    };
    Fault::stop(NO_FREE_SLOT, format!("{}; {}{drop}", remedy::MORE_SLOTS, remedy::RESTART))
}
