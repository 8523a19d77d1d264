//! What makes a table what it is, as the catalogs have it: nouns only. SQL fragments are spelled by the server, which
//! knows its own rules of quoting.

use std::collections::BTreeMap;

use super::LeftOut;

/// Everything the chosen tables are made of, and whatever else the database offers to make them of.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// The schemas whose names the fragments leave out, because extensions live there: they may live elsewhere in the
    /// target.
    pub search_path: Vec<String>,
    /// Roots and plain tables first, partitions after their parents.
    pub tables: Vec<TableShape>,
    /// Every type that is not built in, by oid.
    pub types: BTreeMap<u32, Type>,
    pub sequences: BTreeMap<u32, Sequence>,
    pub collations: BTreeMap<u32, Collation>,
    pub left_out: Vec<LeftOut>,
}

/// A name with its schema; `sql` is both as SQL takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub schema: String,
    pub name: String,
    pub sql: String,
    pub schema_sql: String,
}

#[derive(Clone, Debug, Default)]
pub struct TableShape {
    pub oid: u32,
    pub name: Name,
    /// `partition by …`, without these words.
    pub partition_key: Option<String>,
    pub partition_of: Option<Parent>,
    pub columns: Vec<ColumnShape>,
    pub constraints: Vec<Constraint>,
    /// Those that no constraint owns and no parent's index implies.
    pub indexes: Vec<Index>,
    /// A quoted literal.
    pub comment: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Parent {
    pub oid: u32,
    /// `for values …` or `default`.
    pub bound: String,
}

#[derive(Clone, Debug)]
pub struct ColumnShape {
    pub sql: String,
    pub type_sql: String,
    pub type_oid: u32,
    pub collation: Option<CollationUse>,
    pub not_null: bool,
    pub default: ColumnDefault,
    pub comment: Option<String>,
}

#[derive(Clone, Debug)]
pub enum ColumnDefault {
    None,
    Expression { sql: String, uses: Uses },
    Generated { sql: String, uses: Uses },
    Identity { always: bool, sequence: SequenceOptions },
}

/// A collation that differs from the type's own.
#[derive(Clone, Debug)]
pub struct CollationUse {
    pub oid: u32,
    pub sql: String,
}

/// What an expression, a constraint or an index refers to beside what is built in.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    pub extensions: Vec<String>,
    pub types: Vec<u32>,
    pub sequences: Vec<u32>,
    pub collations: Vec<u32>,
    /// Functions, operators and the like that the user wrote, as the server describes them.
    pub foreign: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Constraint {
    pub sql: String,
    pub name: String,
    pub kind: ConstraintKind,
    /// As `pg_get_constraintdef` spells it.
    pub definition: String,
    /// Rows that break it may exist otherwise.
    pub validated: bool,
    pub uses: Uses,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConstraintKind {
    Primary,
    Unique,
    Exclusion,
    Check,
    /// To the table with this oid.
    Foreign(u32),
}

#[derive(Clone, Debug)]
pub struct Index {
    pub sql: String,
    pub name: String,
    pub unique: bool,
    /// What follows the table's name: `USING …`.
    pub definition: String,
    pub uses: Uses,
}

#[derive(Clone, Debug)]
pub struct Type {
    pub name: Name,
    pub extension: Option<String>,
    pub kind: TypeKind,
    pub comment: Option<String>,
}

#[derive(Clone, Debug)]
pub enum TypeKind {
    Array { element: u32 },
    Multirange { range: u32 },
    Enum { labels: Vec<String> },
    Domain(Domain),
    Composite { table: Option<u32>, fields: Vec<Field> },
    Range(Range),
    Base,
}

#[derive(Clone, Debug)]
pub struct Domain {
    pub base: Field,
    pub not_null: bool,
    pub default: Option<String>,
    pub checks: Vec<Constraint>,
    pub uses: Uses,
}

/// A part of a composite type; or, without a name, what a domain or a range is made of.
#[derive(Clone, Debug)]
pub struct Field {
    pub sql: String,
    pub type_sql: String,
    pub type_oid: u32,
    pub collation: Option<CollationUse>,
}

#[derive(Clone, Debug)]
pub struct Range {
    pub subtype: Field,
    /// Only when it is not the subtype's default one.
    pub operator_class: Option<String>,
    pub multirange: Option<String>,
    /// `subtype_diff` and `canonical`, where they are set.
    pub functions: Vec<(String, String)>,
    pub uses: Uses,
}

#[derive(Clone, Debug)]
pub struct Sequence {
    pub name: Name,
    pub options: SequenceOptions,
    /// Table and column that it goes away with.
    pub owner: Option<(u32, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceOptions {
    pub type_sql: String,
    pub start: i64,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cache: i64,
    pub cycle: bool,
}

#[derive(Clone, Debug)]
pub struct Collation {
    pub name: Name,
    /// `icu`, `libc`, `builtin`.
    pub provider: String,
    /// Quoted literal.
    pub locale: String,
    pub deterministic: bool,
}
