//! The SQL that creates the chosen tables in Supabase, from the source's catalogs.
//!
//! What is printed holds whatever the source holds: where a rule of the source cannot be kept over there (it calls a
//! function that only the source has, rows that break it may exist), the rule is left out, and a comment says so. The
//! differences that remain on purpose: an identity is `by default`, so that replicated values may be written; a child
//! by inheritance is a table of its own; partitions take the columns of their root.

mod order;
mod tables;
mod types;

use std::fmt::Write as _;

use tokio_postgres::Client;

use crate::pg::catalog::shape::{Shape, Uses};
use crate::pg::catalog::{Selection, read};
use crate::types::Fault;

/// Reads the source and prints the script.
pub async fn sql(client: &Client, selection: &Selection) -> Result<String, Fault> {
    let shape = read::shape(client, selection).await?;
    if shape.tables.is_empty() {
        let left_out: Vec<String> = shape.left_out.iter().map(|table| format!("; {table}")).collect();
        return Err(Fault::stop(
            format!("the selection holds no table that can be replicated{}", left_out.concat()),
            "choose a schema or a table that has a primary key",
        ));
    }
    Ok(print(&shape))
}

/// The script for a shape. The same shape gives the same text.
pub fn print(shape: &Shape) -> String {
    let plan = order::plan(shape);
    let mut script = Script(header(shape));
    script.part("begin;\nset local client_min_messages = warning;\n");
    script.title("Extensions go where Supabase keeps them, or, where it has no such schema, into public.");
    script.part(&extensions(&plan, shape));
    let schemas = plan.schemas.iter().map(|schema| format!("create schema if not exists {schema};\n"));
    script.section("Schemas", [schemas.collect()]);
    let collations = plan.collations.iter().map(|oid| types::collation(&shape.collations[oid]));
    script.section("Collations", [collations.collect()]);
    let sequences = plan.sequences.iter().map(|oid| types::sequence(&shape.sequences[oid]));
    script.section("Sequences", [sequences.collect()]);
    script.section(
        "Types and tables",
        plan.items.iter().map(|item| match *item {
            order::Item::Type(oid) => types::create(&shape.types[&oid]),
            order::Item::Table(place) => tables::create(shape, &shape.tables[place]),
        }),
    );
    tables::after_all(&mut script, shape, &plan);
    script.title("PostgREST learns of the tables when this is committed.");
    script.part("notify pgrst, 'reload schema';\n");
    script.part("commit;\n");
    script.0
}

/// Text in paragraphs.
struct Script(String);

impl Script {
    fn title(&mut self, title: &str) {
        self.part(&comment("", title));
    }

    fn part(&mut self, text: &str) {
        if !text.is_empty() {
            self.0.push('\n');
            self.0.push_str(text);
        }
    }

    /// A title and what stands below it, or nothing when nothing does.
    fn section(&mut self, title: &str, parts: impl IntoIterator<Item = String>) {
        let mut parts = parts.into_iter().filter(|part| !part.is_empty()).peekable();
        if parts.peek().is_some() {
            self.title(title);
        }
        parts.for_each(|part| self.part(&part));
    }
}

fn header(shape: &Shape) -> String {
    let mut out = String::from(
        "-- The tables that Lockstep replicates, for Supabase, as `lockstep schema` read them from the source.\n\
         -- Run it as it stands, with `psql -v ON_ERROR_STOP=1 -f` or in the SQL editor. Running it again is harmless:\n\
         -- what exists is left as it is.\n",
    );
    if !shape.left_out.is_empty() {
        out.push_str("--\n-- Not here, because it cannot be replicated:\n");
        for table in &shape.left_out {
            let _ = writeln!(out, "--   {}", one_line(&table.to_string()));
        }
    }
    out
}

fn extensions(plan: &order::Plan, shape: &Shape) -> String {
    // An extension goes into the first schema of the path that exists.
    let mut out = String::from("set local search_path = extensions, public;\n");
    for extension in &plan.extensions {
        let _ = writeln!(out, "create extension if not exists {} cascade;", crate::pg::quote::ident(extension));
    }
    let mut path = vec!["public", "extensions"];
    path.extend(shape.search_path.iter().map(String::as_str).filter(|s| !["public", "extensions"].contains(s)));
    let _ = writeln!(out, "set local search_path = {};", path.join(", "));
    out
}

/// Why a piece cannot be created in the target, if it cannot.
fn obstacle(uses: &Uses) -> Option<String> {
    if uses.foreign.is_empty() {
        return None;
    }
    Some(format!("it uses {}, which only the source has", uses.foreign.join(" and ")))
}

/// A comment ends with its line, and names may hold line ends.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c }).collect()
}

fn comment(indent: &str, text: &str) -> String {
    format!("{indent}-- {}\n", one_line(text))
}

/// A block of statements, in quotes that it does not contain.
fn block(body: &str) -> String {
    let mut tag = "$$".to_owned();
    let mut number = 0;
    while body.contains(&tag) {
        number += 1;
        tag = format!("$lockstep_{number}$");
    }
    format!("do {tag}\n{body}\n{tag};\n")
}

/// A statement that has no `if not exists` of its own.
fn unless_it_exists(statement: &str) -> String {
    block(&format!("begin\n    {statement}\nexception when duplicate_object then null;\nend"))
}
