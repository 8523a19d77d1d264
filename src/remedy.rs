//! The statements that mend things, each in one place: what `doctor` prints is what the service prints when it stops
//! for the same reason. Pure text; who runs it, and whether, is decided elsewhere.

use crate::pg::quote::{ident, literal, table};
use crate::types::TableName;

pub const WAL_LEVEL: &str = "alter system set wal_level = logical";
pub const MORE_SLOTS: &str = "alter system set max_replication_slots = 20";
pub const MORE_SENDERS: &str = "alter system set max_wal_senders = 10";
/// What a setting of the server needs that is read at its start.
pub const RESTART: &str = "then restart the server";
/// Every kind of change, and partitions as their root.
pub const PUBLISH_ALL: &str = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true";
/// How our SQL comes into Supabase.
pub const INSTALL: &str = "run in Supabase's SQL editor what `lockstep setup supabase --print` prints";

pub fn drop_slot(slot: &str) -> String {
    format!("select pg_drop_replication_slot({})", literal(slot))
}

/// A failover slot, where the server knows them, lives on after a switch to a standby.
pub fn create_slot(slot: &str, version: u32) -> String {
    let failover = if version >= 170_000 { ", failover => true" } else { "" };
    format!("select pg_create_logical_replication_slot({}, 'pgoutput'{failover})", literal(slot))
}

/// Ends what a process of the server does.
pub fn terminate(pid: &str) -> String {
    format!("select pg_terminate_backend({pid})")
}

/// The session that takes the mark away is bound by it itself.
pub fn writable(database: &str) -> [String; 2] {
    let reset = format!("alter database {} reset default_transaction_read_only", ident(database));
    ["set default_transaction_read_only = off".into(), reset]
}

pub fn create_publication(publication: &str, tables: &[TableName]) -> String {
    let tables = match tables {
        [] => String::new(),
        tables => format!(" for table {}", list(tables)),
    };
    format!("create publication {}{tables} with (publish_via_partition_root = true)", ident(publication))
}

pub fn publish_all(publication: &str) -> String {
    format!("alter publication {} set ({PUBLISH_ALL})", ident(publication))
}

pub fn publish(publication: &str, tables: &[TableName]) -> String {
    format!("alter publication {} add table {}", ident(publication), list(tables))
}

pub fn unpublish(publication: &str, tables: &[TableName]) -> String {
    format!("alter publication {} drop table {}", ident(publication), list(tables))
}

pub fn may_replicate(role: &str) -> String {
    format!("alter role {} replication", ident(role))
}

/// Rights to read tables, schema by schema first.
pub fn may_read(role: &str, schemas: &[String], tables: &[TableName]) -> Vec<String> {
    let role = ident(role);
    let mut all: Vec<String> =
        schemas.iter().map(|schema| format!("grant usage on schema {} to {role}", ident(schema))).collect();
    if !tables.is_empty() {
        all.push(format!("grant select on {} to {role}", list(tables)));
    }
    all
}

pub fn add_key(name: &TableName, kind: &str, columns: &[String]) -> String {
    format!("alter table {} add {kind} ({})", table(name), idents(columns))
}

pub fn set_logged(name: &TableName) -> String {
    format!("alter table {} set logged", table(name))
}

/// `default`, `full`, `using index …`.
pub fn identity(name: &TableName, identity: &str) -> String {
    format!("alter table {} replica identity {identity}", table(name))
}

/// `columns` are names with types.
pub fn add_columns(name: &TableName, columns: &[(&str, &str)]) -> String {
    let adds: Vec<String> =
        columns.iter().map(|(column, kind)| format!("add column {} {kind}", ident(column))).collect();
    format!("alter table {} {}", table(name), adds.join(", "))
}

/// The same for several columns of a table: `drop not null`, `drop expression`.
pub fn alter_columns(name: &TableName, columns: &[String], what: &str) -> String {
    let all: Vec<String> = columns.iter().map(|column| format!("alter column {} {what}", ident(column))).collect();
    format!("alter table {} {}", table(name), all.join(", "))
}

pub fn retype(name: &TableName, column: &str, kind: &str) -> String {
    let column = ident(column);
    format!("alter table {} alter column {column} type {kind} using {column}::{kind}", table(name))
}

pub fn drop_constraint(name: &TableName, constraint: &str) -> String {
    format!("alter table {} drop constraint {}", table(name), ident(constraint))
}

pub fn grant(rights: &[String], name: &TableName, role: &str) -> String {
    format!("grant {} on {} to {}", rights.join(", "), table(name), role)
}

pub fn list(tables: &[TableName]) -> String {
    tables.iter().map(table).collect::<Vec<_>>().join(", ")
}

pub fn idents(names: &[String]) -> String {
    names.iter().map(|name| ident(name)).collect::<Vec<_>>().join(", ")
}

/// An argument as a shell takes it.
pub fn shell(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text.bytes().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
