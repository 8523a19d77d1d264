//! Types, collations and sequences.

use std::fmt::Write as _;

use super::{comment, obstacle, unless_it_exists};
use crate::pg::catalog::shape::*;

pub(super) fn create(wanted: &Type) -> String {
    let name = &wanted.name.sql;
    let mut notes = String::new();
    let statement = match &wanted.kind {
        TypeKind::Enum { labels } => format!("create type {name} as enum ({});", labels.join(", ")),
        TypeKind::Domain(shape) => domain(name, shape, &mut notes),
        TypeKind::Composite { fields, .. } => {
            let fields: Vec<String> = fields.iter().map(|part| format!("{} {}", part.sql, field(part))).collect();
            format!("create type {name} as ({});", fields.join(", "))
        }
        TypeKind::Range(shape) => range(name, shape, &mut notes),
        TypeKind::Base => {
            return comment("", &format!("{name} is written in C: install what defines it before this script."));
        }
        TypeKind::Array { .. } | TypeKind::Multirange { .. } => return String::new(), // made with their element
    };
    let mut out = notes + &unless_it_exists(&statement);
    if let Some(text) = &wanted.comment {
        let kind = if matches!(wanted.kind, TypeKind::Domain(_)) { "domain" } else { "type" };
        let _ = writeln!(out, "comment on {kind} {name} is {text};");
    }
    out
}

fn field(part: &Field) -> String {
    match &part.collation {
        Some(collation) => format!("{} collate {}", part.type_sql, collation.sql),
        None => part.type_sql.clone(),
    }
}

fn domain(name: &str, shape: &Domain, notes: &mut String) -> String {
    let mut out = format!("create domain {name} as {}", field(&shape.base));
    if let Some(default) = &shape.default {
        match obstacle(&shape.uses) {
            Some(why) => notes.push_str(&comment("", &format!("{name} has no default here: {why}"))),
            None => out.push_str(&format!(" default {default}")),
        }
    }
    if shape.not_null {
        out.push_str(" not null");
    }
    for check in &shape.checks {
        match left_out(check) {
            Some(why) => notes.push_str(&comment("", &format!("{name} has no constraint {} here: {why}", check.name))),
            None => out.push_str(&format!("\n        constraint {} {}", check.sql, check.definition)),
        }
    }
    out + ";"
}

/// Why a constraint is not created in the target, if it is not.
pub(super) fn left_out(constraint: &Constraint) -> Option<String> {
    if !constraint.validated {
        return Some("it is not validated at the source, so rows that break it may come".to_owned());
    }
    obstacle(&constraint.uses)
}

fn range(name: &str, shape: &Range, notes: &mut String) -> String {
    let mut parts = vec![format!("subtype = {}", shape.subtype.type_sql)];
    if let Some(collation) = &shape.subtype.collation {
        parts.push(format!("collation = {}", collation.sql));
    }
    match obstacle(&shape.uses) {
        Some(why) => notes.push_str(&comment("", &format!("{name} has no functions of its own here: {why}"))),
        None => {
            parts.extend(shape.operator_class.iter().map(|class| format!("subtype_opclass = {class}")));
            parts.extend(shape.functions.iter().map(|(what, function)| format!("{what} = {function}")));
        }
    }
    parts.extend(shape.multirange.iter().map(|multirange| format!("multirange_type_name = {multirange}")));
    format!("create type {name} as range ({});", parts.join(", "))
}

pub(super) fn collation(wanted: &Collation) -> String {
    let Collation { name, provider, locale, deterministic } = wanted;
    let rest = if *deterministic { "" } else { ", deterministic = false" };
    format!("create collation if not exists {} (provider = {provider}, locale = {locale}{rest});\n", name.sql)
}

pub(super) fn sequence(wanted: &Sequence) -> String {
    let options = sequence_options(&wanted.options);
    let type_ = match wanted.options.type_sql.as_str() {
        "bigint" => String::new(),
        other => format!(" as {other}"),
    };
    let space = if options.is_empty() { "" } else { " " };
    format!("create sequence if not exists {}{type_}{space}{options};\n", wanted.name.sql)
}

/// Only what differs from what Postgres would choose itself.
pub(super) fn sequence_options(options: &SequenceOptions) -> String {
    let (lowest, highest) = match options.type_sql.as_str() {
        "smallint" => (i64::from(i16::MIN), i64::from(i16::MAX)),
        "integer" => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    let rises = options.increment > 0;
    let (min, max) = if rises { (1, highest) } else { (lowest, -1) };
    let mut parts = Vec::new();
    if options.increment != 1 {
        parts.push(format!("increment by {}", options.increment));
    }
    if options.min != min {
        parts.push(format!("minvalue {}", options.min));
    }
    if options.max != max {
        parts.push(format!("maxvalue {}", options.max));
    }
    if options.start != if rises { options.min } else { options.max } {
        parts.push(format!("start with {}", options.start));
    }
    if options.cache != 1 {
        parts.push(format!("cache {}", options.cache));
    }
    if options.cycle {
        parts.push("cycle".to_owned());
    }
    parts.join(" ")
}
