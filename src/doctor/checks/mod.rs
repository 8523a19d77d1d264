//! What is looked at, in the order in which it is mended: reach a side first, then its server, then its tables.

mod columns;
mod publication;
mod rules;
mod service;
mod slot;
mod source;
mod tables;
mod target;
mod types;

use super::finding::Group::{Settings, Source, Tables, Target};
use super::{Check, Group, Sees, Trouble};
use crate::doctor::case::Case;

const fn check(code: &'static str, group: Group, sees: Sees, well: &'static str, run: Run) -> Check {
    Check { code, group, well, sees, run }
}

type Run = fn(&Case) -> Vec<Trouble>;

use Sees::{Anything, Both};

/// All of them. `docs/doctor.md` says of each what it means (`tests/house.rs` holds it).
pub const CHECKS: &[Check] = &[
    check("secrets-readable", Settings, Anything, "files with secrets are for their owner only", service::readable),
    check("listen", Settings, Anything, "the page can listen where the settings say", service::listen),
    check("clock", Settings, Anything, "the clocks agree within 2 s", service::clocks),
    // The source.
    check("source-reach", Source, Anything, "the database answers", source::reach),
    check("source-tls", Source, Sees::Source, "nobody on the way can read along", source::encrypted),
    check("source-version", Source, Sees::Source, "PostgreSQL 14 or newer", source::version),
    check("source-primary", Source, Sees::Source, "it is a primary", source::primary),
    check("source-read-only", Source, Sees::Source, "the database takes writes", source::read_only),
    check("source-encoding", Source, Sees::Source, "texts have a known encoding", source::encoding),
    check("wal-level", Source, Sees::Source, "wal_level is logical", source::wal_level),
    check("wal-senders", Source, Sees::Source, "a WAL sender is free", source::senders),
    check("replication-right", Source, Sees::Source, "the role may replicate", source::may_replicate),
    check("replication-reach", Source, Sees::Source, "a replication connection is let in", source::replicates),
    check("source-rights", Source, Sees::Source, "the role may read every chosen table", source::rights),
    check("source-rls", Source, Sees::Source, "no policy hides rows from the role", source::hidden),
    check("sender-timeout", Source, Sees::Source, "wal_sender_timeout leaves time to answer", source::sender_timeout),
    check("decoding-memory", Source, Sees::Source, "logical_decoding_work_mem is 64 MB or more", source::decoding),
    check("slot-timeout", Source, Sees::Source, "an idle slot is kept", source::idle_slot),
    check("wal-keep", Source, Sees::Source, "WAL is kept as long as the slot needs it", source::keep),
    check("prepared", Source, Sees::Source, "no forgotten prepared transaction", source::prepared),
    check("open-transactions", Source, Sees::Source, "no transaction has been open for long", source::open),
    check("slots-free", Source, Sees::Source, "there is a slot, or room for one", slot::free),
    check("slot", Source, Sees::Source, "the slot is there", slot::there),
    check("slot-kind", Source, Sees::Source, "the slot is one of ours", slot::kind),
    check("slot-lost", Source, Sees::Source, "the slot has all its WAL", slot::lost),
    check("slot-used", Source, Sees::Source, "nobody else reads the slot", slot::used),
    check("wal-retained", Source, Sees::Source, "little WAL waits to be read", slot::retained),
    check("publication", Source, Sees::Source, "the publication is there", publication::there),
    check("publication-changes", Source, Sees::Source, "every kind of change is published", publication::changes),
    check("publication-tables", Source, Sees::Source, "every chosen table is published", publication::tables),
    check("publication-parts", Source, Sees::Source, "whole rows of all tables are published", publication::parts),
    check("publication-others", Source, Sees::Source, "nothing is published in vain", publication::others),
    check("journal", Source, Sees::Source, "the journal's triggers are there, where it is read", source::journal),
    check("tables-chosen", Source, Sees::Source, "the choice of tables fits the source", source::choice),
    check("no-key", Source, Sees::Source, "every table has a primary key", source::no_key),
    check("unlogged", Source, Sees::Source, "every table is in the WAL", source::unlogged),
    check("identity", Source, Sees::Source, "every row can be named in the WAL", source::identity),
    check("not-tables", Source, Sees::Source, "nothing is left out for not being a table", source::not_tables),
    // The target.
    check("target-reach", Target, Anything, "the project answers", target::reach),
    check("target-key", Target, Anything, "the key may write", target::key),
    check("target-https", Target, Anything, "the key travels encrypted", target::https),
    check("exposed", Target, Anything, "PostgREST serves schema public", target::exposed),
    check("installed", Target, Anything, "our SQL is installed", target::installed),
    check("installed-version", Target, Sees::Target, "our SQL has the version of this program", target::version),
    check("target-direct", Target, Anything, "no direct connection is asked for", target::direct),
    check("target-server", Target, Sees::Target, "PostgreSQL 14 or newer", target::server),
    check("target-read-only", Target, Sees::Target, "the database takes writes", target::read_only),
    check("target-encoding", Target, Sees::Target, "the database is in UTF8", target::encoding),
    check("doors-closed", Target, Sees::Target, "only service_role may call our functions", target::doors),
    check("doors-settings", Target, Sees::Target, "our functions have their settings", target::door_settings),
    check("schemas-closed", Target, Sees::Target, "no stranger may create functions in public", target::strangers),
    check("another-source", Target, Both, "Supabase holds this source's copy, or none yet", target::another_source),
    check("history", Target, Both, "the stream can go on from where Supabase is", target::history),
    // The tables of both.
    check("extensions", Tables, Both, "every extension that is needed is there", types::extensions),
    check("enum-labels", Tables, Both, "enum types have all their labels", types::labels),
    check("domains", Tables, Both, "domains are not stricter", types::domains),
    check("composites", Tables, Both, "composite types have the same fields", types::composites),
    check("table-missing", Tables, Sees::Source, "every chosen table is there", tables::missing),
    check("column-missing", Tables, Sees::Source, "every chosen column is there", tables::columns),
    check("column-generated", Tables, Both, "nothing is computed that is sent", tables::generated),
    check("column-required", Tables, Both, "no column demands what is not sent", tables::required),
    check("column-type", Tables, Both, "every value fits its column", columns::types),
    check("column-null", Tables, Both, "NULL is allowed where the source allows it", columns::nulls),
    check("column-identity", Tables, Both, "identity columns take what is sent", columns::identity),
    check("column-collation", Tables, Both, "unlike texts stay unlike", columns::collation),
    check("table-unlogged", Tables, Both, "every table survives a crash", tables::unlogged),
    check("key", Tables, Both, "every key is unique over there", tables::key),
    check("unique", Tables, Both, "no unique rule is stricter", rules::unique),
    check("checks", Tables, Both, "no check is stricter", rules::checks),
    check("foreign-keys", Tables, Both, "no foreign key is stricter", rules::foreign_keys),
    check("triggers", Tables, Both, "no trigger acts on replicated rows", rules::triggers),
    check("suppress", Tables, Both, "triggers and foreign keys are left to the source", rules::suppress),
    check("partitions", Tables, Both, "every partition has its place", tables::partitions),
    check("target-rights", Tables, Both, "service_role may write every table", tables::rights),
    check("owner-rights", Tables, Both, "the owner of our functions may write every table", tables::owner_rights),
    check("target-rls", Tables, Both, "no policy stands in our way", tables::rls),
    check("public-rows", Tables, Both, "the publishable key does not open the tables", tables::public),
    check("sequences", Tables, Both, "sequences are not behind their columns", tables::sequences),
    check("occupied", Tables, Both, "no table holds rows of somebody else's", tables::occupied),
];

/// What only a slot needs; the journal does without.
pub(super) const OF_A_SLOT: &[&str] = &[
    "wal-level",
    "wal-senders",
    "replication-right",
    "replication-reach",
    "sender-timeout",
    "decoding-memory",
    "slot-timeout",
    "wal-keep",
    "slots-free",
    "slot",
    "slot-kind",
    "slot-lost",
    "slot-used",
    "wal-retained",
    "publication",
    "publication-changes",
    "publication-tables",
    "publication-parts",
    "publication-others",
    "history",
];
