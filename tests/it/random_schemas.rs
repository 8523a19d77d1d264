//! Random tables with random rows and random statements: types, arrays, names, keys, identities, partitions, generated
//! columns and out-of-line values in combinations that nobody thought of; both sides equal after every round.
//!
//! `LOCKSTEP_SEED` repeats the choices of an earlier run; `LOCKSTEP_RANDOM_SECONDS` makes it longer.

use std::fmt::Write;
use std::time::{Duration, Instant};

use lockstep::lab::{Owner, PairOptions, Seeded, SupabaseOptions};
use lockstep::pg::quote;
use lockstep::types::TableName;

use super::rig::{Rig, random_seconds, seed};
use super::values::{KEYS, TYPES, VALUES, has_array, literal};

const TABLES: usize = 6;
/// Reserved, quoted, split, without end: "u" is replaced by a number, so that no name comes twice.
const NAMES: &[&str] =
    &["plain", "select", "Sel ect", "ü'ñ\\", "a.b", "\"", "🦀", "$1", "tab\tle", "-- no", "with {curly}, (round)"];

struct Table {
    name: TableName,
    /// The part of the key that statements choose rows by.
    number: String,
    /// The key's other part, and its entry in `KEYS`.
    second: Option<(String, usize)>,
    columns: Vec<Column>,
    unique: Option<String>,
    /// It has an identity of its own that no update may set but to a new value.
    counted: bool,
    ddl: String,
}

struct Column {
    name: String,
    /// Its entry in `VALUES`; without one it is a text that is stored apart.
    kind: Option<usize>,
    array: bool,
}

/// A column more, of one of the tables.
pub struct Addition {
    at: usize,
    column: Column,
}

pub struct Schema {
    tables: Vec<Table>,
}

impl Schema {
    pub fn new(chance: &mut Seeded) -> Self {
        Self { tables: (0..TABLES).map(|at| Table::new(chance, at)).collect() }
    }

    pub fn names(&self) -> Vec<TableName> {
        self.tables.iter().map(|table| table.name.clone()).collect()
    }

    /// For both sides.
    pub fn ddl(&self) -> String {
        let tables: String = self.tables.iter().map(|table| table.ddl.as_str()).collect();
        format!("{TYPES} create schema \"Other Place\"; {tables}")
    }

    /// What the target needs for tables outside `public`.
    pub const GRANTS: &str = "grant usage on schema \"Other Place\" to service_role;
        grant all on all tables in schema \"Other Place\" to service_role";

    pub fn fill(&self, chance: &mut Seeded) -> String {
        let rows = self.tables.iter().flat_map(|table| (0..25).map(move |n| (table, n)));
        rows.map(|(table, n)| table.insert(chance, n)).collect()
    }

    /// A column that some table could have more, and the statement that adds it.
    pub fn addition(&self, chance: &mut Seeded) -> Option<(String, Addition)> {
        let at = chance.below(TABLES as u64) as usize;
        let table = &self.tables[at];
        let column = Column::new(chance, 200 + table.columns.len());
        let sql = format!("alter table {} add column if not exists {}", quote::table(&table.name), column.definition());
        // A row must still fit into its page.
        (table.columns.len() < 40).then_some((sql, Addition { at, column }))
    }

    pub fn add(&mut self, Addition { at, column }: Addition) {
        self.tables[at].columns.push(column);
    }

    /// One transaction of up to five statements.
    pub fn transaction(&self, chance: &mut Seeded) -> String {
        let count = 1 + chance.below(5);
        let statements: String =
            (0..count).map(|_| self.tables[chance.below(TABLES as u64) as usize].statement(chance)).collect();
        format!("begin; {statements} commit")
    }
}

/// An identifier that no other column or table of this number has.
fn odd_name(chance: &mut Seeded, at: usize) -> String {
    format!("{}{at}", NAMES[chance.below(NAMES.len() as u64) as usize])
}

impl Table {
    fn new(chance: &mut Seeded, at: usize) -> Self {
        let schema = if chance.happens(0.3) { "Other Place" } else { "public" };
        let mut table = Self {
            name: TableName::new(schema, odd_name(chance, at)),
            number: odd_name(chance, 100),
            second: chance.happens(0.4).then(|| (odd_name(chance, 101), chance.below(KEYS.len() as u64) as usize)),
            columns: (0..1 + chance.below(12) as usize).map(|at| Column::new(chance, at)).collect(),
            unique: None,
            counted: false,
            ddl: String::new(),
        };
        let partitioned = chance.happens(0.25);
        if !partitioned && chance.happens(0.4) {
            table.unique = Some(odd_name(chance, 102));
        }
        table.counted = chance.happens(0.25) && !partitioned;
        table.ddl = table.create(chance, partitioned);
        table
    }

    fn create(&self, chance: &mut Seeded, partitioned: bool) -> String {
        let (name, number) = (quote::table(&self.name), quote::ident(&self.number));
        let mut columns: Vec<String> = self.columns.iter().map(Column::definition).collect();
        let mut add = |chance: &mut Seeded, column: String| {
            let place = chance.below(columns.len() as u64 + 1) as usize; // the key need not come first
            columns.insert(place, column);
        };
        add(chance, format!("{number} int not null"));
        let mut key = number.clone();
        if let Some((second, kind)) = &self.second {
            add(chance, format!("{} {} not null", quote::ident(second), KEYS[*kind].0));
            key = if chance.happens(0.5) {
                format!("{key}, {}", quote::ident(second))
            } else {
                format!("{}, {key}", quote::ident(second))
            };
        }
        if let Some(unique) = &self.unique {
            add(chance, format!("{} int unique", quote::ident(unique)));
        }
        let computed = chance.happens(0.3);
        if computed {
            add(chance, format!("computed int generated always as ({number} * 2) stored"));
        }
        if self.counted {
            add(chance, "counted bigint generated always as identity".into());
        }
        let mut sql = format!("create table {name} ({}", columns.join(", "));
        // Without a primary key, rows are found by the unique index that the identity names.
        let index = !partitioned && chance.happens(0.25);
        match index {
            true => write!(sql, "); create unique index ix on {name} ({key}); ").unwrap(),
            false => write!(
                sql,
                ", primary key ({key})){};",
                if partitioned { format!(" partition by hash ({number})") } else { String::new() }
            )
            .unwrap(),
        }
        if index {
            let index = format!("ix {}", self.name.name);
            let index = quote::ident(&index);
            sql = sql.replace("create unique index ix on", &format!("create unique index {index} on"));
            write!(sql, "alter table {name} replica identity using index {index};").unwrap();
        } else if chance.happens(0.25) && !partitioned && !computed {
            // With a computed column PostgreSQL 18 refuses it: every_change.rs.
            write!(sql, "alter table {name} replica identity full;").unwrap();
        }
        for part in 0..if partitioned { 3 } else { 0 } {
            let leaf = quote::table(&TableName::new(&self.name.schema, format!("{} part {part}", self.name.name)));
            write!(sql, "create table {leaf} partition of {name} for values with (modulus 3, remainder {part});")
                .unwrap();
        }
        for column in self.columns.iter().filter(|column| column.kind.is_none()) {
            write!(sql, "alter table {name} alter {} set storage external;", quote::ident(&column.name)).unwrap();
        }
        sql
    }

    fn insert(&self, chance: &mut Seeded, n: u64) -> String {
        let mut names = vec![quote::ident(&self.number)];
        let mut values = vec!["i".to_owned()];
        if let Some((second, kind)) = &self.second {
            names.push(quote::ident(second));
            values.push(KEYS[*kind].1.to_owned());
        }
        for column in &self.columns {
            names.push(quote::ident(&column.name));
            values.push(column.value(chance));
        }
        if let Some(unique) = &self.unique {
            names.push(quote::ident(unique));
            values.push("i".to_owned());
        }
        let (table, names, values) = (quote::table(&self.name), names.join(", "), values.join(", "));
        format!("insert into {table} ({names}) select {values} from (values ({n})) x (i) on conflict do nothing; ")
    }

    fn statement(&self, chance: &mut Seeded) -> String {
        let (table, number) = (quote::table(&self.name), quote::ident(&self.number));
        let (n, m) = (chance.below(40), 2 + chance.below(12));
        let unique = self.unique.as_ref().map(|name| quote::ident(name));
        match (chance.below(20), &self.second, unique) {
            (0..7, _, _) => self.insert(chance, n),
            (7..10, _, _) => format!("update {table} set {} where {number} % {m} = 1; ", self.assignments(chance)),
            (10 | 11, _, _) => format!("update {table} set {} where {number} = {n}; ", self.assignments(chance)),
            (12, Some((second, kind)), _) => {
                let (second, value) = (quote::ident(second), KEYS[*kind].1);
                let other = format!("(select {value} from (values ({n} + 500)) x (i))");
                format!("update {table} set {second} = {other} where {number} = {n}; ")
            }
            (12..14, _, _) => format!("update {table} set {number} = {number} + {m} where {number} = {n}; "),
            (14, _, _) => {
                let set = self.assignments(chance);
                format!("update {table} set {number} = -{number}, {set} where {number} between {n} and {n} + 3; ")
            }
            (15, _, Some(u)) => format!(
                "update {table} set {u} = -{u} where {number} = {n}; update {table} set {u} = {u} + 1000 where {number} = {m};
                 update {table} set {u} = {m} where {number} = {n}; update {table} set {u} = {n} where {number} = {m}; "
            ),
            (16, _, _) => format!("delete from {table} where {number} = {n}; {}", self.insert(chance, n)),
            (17, _, _) if chance.happens(0.1) => format!("truncate {table}; "),
            (18, ..) if self.counted => format!("update {table} set counted = default where {number} % {m} = 2; "),
            _ => format!("delete from {table} where abs({number}) % 17 = {m}; "),
        }
    }

    /// Some columns get new values; the others stay, out of line or not.
    fn assignments(&self, chance: &mut Seeded) -> String {
        let keep = chance.below(self.columns.len() as u64) as usize;
        let mut set = Vec::new();
        for (at, column) in self.columns.iter().enumerate() {
            if at == keep || chance.happens(0.4) {
                set.push(format!("{} = {}", quote::ident(&column.name), column.value(chance)));
            }
        }
        set.join(", ")
    }
}

impl Column {
    fn new(chance: &mut Seeded, at: usize) -> Self {
        let name = odd_name(chance, at);
        if chance.happens(0.15) {
            return Self { name, kind: None, array: false };
        }
        let kind = chance.below(VALUES.len() as u64) as usize;
        Self { name, kind: Some(kind), array: has_array(VALUES[kind].0) && chance.happens(0.4) }
    }

    fn definition(&self) -> String {
        let kind = self.kind.map_or("text", |kind| VALUES[kind].0);
        format!("{} {kind}{}", quote::ident(&self.name), if self.array { "[]" } else { "" })
    }

    fn value(&self, chance: &mut Seeded) -> String {
        let Some(kind) = self.kind else {
            return match chance.below(4) {
                0 => "null".into(),
                1 => "'small'".into(),
                _ => format!("repeat('{}🦀\\', {})", chance.below(1000), 600 + chance.below(2000)),
            };
        };
        let (kind, literals) = VALUES[kind];
        let one = |chance: &mut Seeded| match chance.pick(literals) {
            Some(text) if !chance.happens(0.15) => format!("{}::{kind}", literal(text)),
            _ => format!("null::{kind}"),
        };
        if !self.array {
            return one(chance);
        }
        let (a, b) = (one(chance), one(chance));
        match chance.below(6) {
            0 => "null".into(),
            1 => format!("'{{}}'::{kind}[]"),
            2 if kind != "tags" => format!("array[array[{a}, {b}], array[{b}, null]]::{kind}[]"),
            3 => format!("('[-3:-2]=' || (array[{a}, {b}]::{kind}[])::text)::{kind}[]"),
            4 => format!("array[null, {a}]::{kind}[]"),
            _ => format!("array[{a}, {b}, {a}]::{kind}[]"),
        }
    }
}

async fn stay_equal(owner: Owner) {
    let seed = seed();
    println!("LOCKSTEP_SEED={seed}");
    let mut chance = Seeded::new(seed);
    let schema = Schema::new(&mut chance);
    println!("{}", schema.ddl());
    let supabase = SupabaseOptions { owner, ..SupabaseOptions::default() };
    let mut rig = Rig::with(PairOptions { supabase, ..PairOptions::default() }, &schema.ddl()).await;
    rig.pair.supabase.execute(Schema::GRANTS).await.unwrap();
    let settings = "[tables]\nschemas = [\"public\", \"Other Place\"]\n";
    std::fs::write(rig.dir.path().join("lockstep.toml"), settings).unwrap();
    let source = rig.pair.source.connect().await.unwrap();
    source.batch_execute(&schema.fill(&mut chance)).await.unwrap();
    rig.start();
    rig.settled().await;
    rig.assert_equal(&schema.names()).await;

    let (mut accepted, mut refused, mut round) = (0, 0, 0);
    let end = Instant::now() + Duration::from_secs(random_seconds());
    while Instant::now() < end || round < 3 {
        round += 1;
        let gather = chance.happens(0.5);
        if gather {
            rig.pair.supabase.faults().down().await;
        }
        let mut log = String::new();
        for _ in 0..1 + chance.below(if gather { 40 } else { 3 }) {
            let sql = schema.transaction(&mut chance);
            match source.batch_execute(&sql).await {
                Ok(()) => accepted += 1,
                Err(error) => {
                    let known = error.as_db_error().is_some_and(|e| e.code().code().starts_with("23"));
                    assert!(known, "the test's own statement is wrong: {error:?}\n{sql}");
                    refused += 1;
                    source.batch_execute("rollback").await.unwrap();
                    continue;
                }
            }
            writeln!(log, "{sql}").unwrap();
        }
        if chance.happens(0.15) {
            rig.kill9().await;
            rig.start();
        }
        rig.pair.supabase.faults().up().await;
        rig.settled().await;
        let differences = rig.pair.differences(&schema.names()).await.unwrap();
        let (lines, tail) = (differences.join("\n"), rig.tail());
        assert!(differences.is_empty(), "LOCKSTEP_SEED={seed}, {owner:?}, round {round}:\n{lines}\n{tail}\n{log}");
    }
    println!("{accepted} transactions in {round} rounds; the source refused {refused} more");
    assert!(accepted > refused, "{refused} of {accepted} transactions were refused at the source");
    assert_eq!(rig.terminate().await, Some(0), "{}", rig.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn random_tables_under_random_statements_stay_equal_with_an_owner_as_on_supabase() {
    stay_equal(Owner::SetReplicationRole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_tables_under_random_statements_stay_equal_with_a_plain_owner() {
    stay_equal(Owner::Plain).await;
}
