//! What was read of one side's catalogs: the document of `sql/doctor/facts.sql`, as nouns. Decides nothing.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::types::TableName;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Facts {
    pub server: Server,
    pub slot: Option<Slot>,
    pub publication: Option<Publication>,
    /// Name and version.
    pub extensions: BTreeMap<String, String>,
    pub doors: Vec<Door>,
    pub open_schemas: Vec<OpenSchema>,
    /// The version of our SQL, where it is installed.
    pub installed: Option<i32>,
    /// What the target remembers of the route.
    pub memory: Option<Memory>,
    pub may_suppress: Option<bool>,
    pub types: Vec<Type>,
    pub tables: Vec<Table>,
}

impl Facts {
    pub fn table(&self, name: &TableName) -> Option<&Table> {
        self.tables.iter().find(|table| table.schema == name.schema && table.name == name.name)
    }

    /// The type behind a column's type: without its modifier, and of an array its element's.
    pub fn type_of(&self, column: &Column) -> Option<&Type> {
        let bare = bare(&column.type_name);
        self.types.iter().find(|one| one.name == bare)
    }
}

/// `vector(3)[]` → `vector`.
pub fn bare(type_name: &str) -> &str {
    let name = type_name.trim_end_matches("[]");
    match name.rfind('(') {
        Some(at) if name.ends_with(')') => &name[..at],
        _ => name,
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Server {
    pub version: u32,
    /// Seconds since 1970, by its own clock.
    pub now: f64,
    pub database: String,
    pub encoding: String,
    /// Whose rights were asked for.
    pub role: String,
    /// Who asked: in the target the owner of our functions.
    pub owner: String,
    pub superuser: bool,
    pub replication: bool,
    pub bypass_rls: bool,
    pub owner_bypasses_rls: bool,
    /// Amazon's service: a role takes the place of the attribute.
    pub rds: bool,
    pub rds_member: bool,
    /// In this database: a publication is created in it.
    pub may_create: bool,
    pub standby: bool,
    pub wal_level: String,
    pub wal_end: Option<String>,
    pub max_slots: i64,
    pub slots: i64,
    pub max_senders: i64,
    pub senders: i64,
    /// -1: without limit.
    pub slot_keep_mb: i64,
    pub sender_timeout_ms: i64,
    pub decoding_kb: i64,
    pub idle_slot_timeout_s: Option<i64>,
    pub read_only: bool,
    pub encrypted: Option<bool>,
    pub role_settings: BTreeMap<String, Vec<String>>,
    /// The oldest transactions that hold something back.
    pub open: Vec<Open>,
    pub prepared: Vec<Prepared>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Open {
    pub pid: i64,
    pub application: Option<String>,
    pub state: Option<String>,
    pub seconds: f64,
    pub writes: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Prepared {
    pub gid: String,
    pub seconds: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Slot {
    pub plugin: Option<String>,
    #[serde(rename = "type")]
    pub kind: String,
    pub database: Option<String>,
    pub temporary: bool,
    pub pid: Option<i64>,
    pub application: Option<String>,
    pub confirmed: Option<String>,
    pub wal_status: Option<String>,
    pub safe_bytes: Option<i64>,
    /// Why the server gave it up (PostgreSQL 17 on).
    pub invalid: Option<String>,
    pub failover: Option<bool>,
    /// Bytes of WAL that are kept for it.
    pub retained: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Publication {
    pub owner: String,
    pub mine: bool,
    pub all_tables: bool,
    pub via_root: bool,
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
    pub truncate: bool,
    pub tables: Vec<Published>,
    pub named: Vec<Named>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Published {
    pub schema: String,
    pub name: String,
    /// Whether the source could still name its rows.
    pub identity: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Named {
    pub schema: String,
    pub name: String,
}

/// Where anybody, or an app's role, may create things.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct OpenSchema {
    pub schema: String,
    pub role: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Door {
    pub name: String,
    pub settings: Option<Vec<String>>,
    /// Runs with its owner's rights.
    pub definer: bool,
    /// Roles without the right key that may call it.
    pub strangers: Vec<String>,
    /// Whether service_role may; none where there is no such role.
    pub service: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Memory {
    pub major: u64,
    pub minor: u64,
    pub source: serde_json::Value,
    /// Tables that were found fit before: rows in them may be ours.
    pub begun: Vec<Named>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Type {
    pub name: String,
    pub extension: Option<String>,
    /// As `pg_type.typtype`.
    pub kind: String,
    pub labels: Option<Vec<String>>,
    pub base: Option<String>,
    pub not_null: bool,
    pub checks: Option<Vec<Rule>>,
    pub fields: Option<Vec<Field>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Field {
    pub name: String,
    #[serde(rename = "type")]
    pub type_name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Rule {
    pub name: String,
    pub definition: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Table {
    pub schema: String,
    pub name: String,
    pub partitioned: bool,
    /// `u`: unlogged.
    pub persistence: String,
    pub rls: bool,
    pub force_rls: bool,
    pub mine: bool,
    /// Whether the reader may use its schema.
    pub usage: bool,
    pub rights: Vec<String>,
    pub owner_lacks: Vec<String>,
    /// Whether whoever holds the publishable key may select, as far as grants go.
    pub anon: bool,
    pub columns: Vec<Column>,
    pub uniques: Vec<Unique>,
    pub constraints: Vec<Constraint>,
    pub triggers: Vec<Trigger>,
    pub partition_key: Option<String>,
    pub partitions: Vec<Partition>,
    pub sequences: Vec<Sequence>,
    pub occupied: Option<bool>,
}

impl Table {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Column {
    pub name: String,
    /// With its modifier; an extension's type without its schema.
    #[serde(rename = "type")]
    pub type_name: String,
    pub extension: Option<String>,
    pub not_null: bool,
    pub default: bool,
    /// Its collation takes unlike texts for equal.
    pub loose: bool,
    /// As `attidentity`: `a` always, `d` by default.
    pub identity: String,
    pub generated: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Unique {
    pub primary: bool,
    pub immediate: bool,
    /// Without condition and without expressions.
    pub plain: bool,
    pub constraint: Option<String>,
    pub index: String,
    /// What follows `using` in its definition.
    pub rest: String,
    pub columns: Vec<String>,
    pub nullable: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Constraint {
    pub name: String,
    /// As `contype`: c, x, f.
    pub kind: String,
    pub definition: String,
    pub validated: bool,
    /// What a foreign key refers to.
    pub schema: Option<String>,
    pub table: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Trigger {
    pub name: String,
    /// As `tgenabled`: O, D, R, A.
    pub enabled: String,
    pub function: String,
    /// Whose code it is.
    pub owner: String,
    /// Neither the table's owner's nor ours.
    pub foreign: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Partition {
    pub schema: String,
    pub name: String,
    pub bound: Option<String>,
    pub identity: String,
    pub persistence: String,
    pub leaf: bool,
    pub direct: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Sequence {
    pub column: String,
    pub name: String,
    /// None: it was never used.
    pub last: Option<i64>,
    pub highest: Option<f64>,
}
