//! Types that the chosen columns use: whether they are there, and take every value.

use super::columns::known;
use crate::doctor::case::Case;
use crate::doctor::facts::{Facts, Field, Rule, Type};
use crate::doctor::finding::{Side, Trouble};
use crate::pg::quote::{ident, literal};

fn both(case: &Case) -> Option<(Vec<&Type>, &Facts)> {
    let (_, here) = case.here()?;
    Some((known(case, here), case.target.facts.as_ref()?))
}

fn of<'a>(facts: &'a Facts, kind: &Type) -> Option<&'a Type> {
    facts.types.iter().find(|other| other.name == kind.name && other.kind == kind.kind)
}

pub(super) fn extensions(case: &Case) -> Vec<Trouble> {
    let Some((types, there)) = both(case) else { return Vec::new() };
    let mut lacking: Vec<&str> = types.iter().filter_map(|kind| kind.extension.as_deref()).collect();
    lacking.retain(|name| !there.extensions.contains_key(*name));
    lacking.sort_unstable();
    lacking.dedup();
    let trouble = |name: &str| {
        Trouble::bad(format!("extension {name} is missing in Supabase"))
            .sql(Side::Target, [format!("create extension if not exists {} with schema extensions", ident(name))])
    };
    lacking.into_iter().map(trouble).collect()
}

pub(super) fn labels(case: &Case) -> Vec<Trouble> {
    let Some((types, there)) = both(case) else { return Vec::new() };
    let mut all = Vec::new();
    for kind in types {
        let (Some(labels), Some(known)) = (&kind.labels, of(there, kind).and_then(|other| other.labels.as_ref()))
        else {
            continue;
        };
        let missing: Vec<&String> = labels.iter().filter(|label| !known.contains(label)).collect();
        if missing.is_empty() {
            continue;
        }
        let names: Vec<&str> = missing.iter().map(|label| label.as_str()).collect();
        let adds = labels.iter().enumerate().filter(|(_, label)| !known.contains(label)).map(|(at, label)| {
            // Where it stands at the source, since enums are ordered.
            let place = match at.checked_sub(1).and_then(|before| labels.get(before)) {
                Some(before) => format!(" after {}", literal(before)),
                None => known.first().map_or(String::new(), |first| format!(" before {}", literal(first))),
            };
            format!("alter type {} add value {}{place}", kind.name, literal(label))
        });
        let cause = format!("type {} lacks labels in Supabase: {}", kind.name, names.join(", "));
        all.push(Trouble::bad(cause).sql(Side::Target, adds));
    }
    all
}

pub(super) fn domains(case: &Case) -> Vec<Trouble> {
    let Some((types, there)) = both(case) else { return Vec::new() };
    let mut all = Vec::new();
    for kind in types.into_iter().filter(|kind| kind.kind == "d") {
        let Some(other) = of(there, kind) else { continue };
        let rules = |kind: &Type| -> Vec<Rule> { kind.checks.clone().unwrap_or_default() };
        let here = rules(kind);
        let mut drops: Vec<String> = rules(other)
            .iter()
            .filter(|rule| !here.iter().any(|known| known.definition == rule.definition))
            .map(|rule| format!("alter domain {} drop constraint {}", kind.name, ident(&rule.name)))
            .collect();
        if other.not_null && !kind.not_null {
            drops.push(format!("alter domain {} drop not null", kind.name));
        }
        if !drops.is_empty() {
            let cause = format!("domain {} is stricter in Supabase than at the source", kind.name);
            all.push(Trouble::bad(cause).sql(Side::Target, drops).decide());
        }
        if kind.base != other.base {
            let base = |kind: &Type| kind.base.clone().unwrap_or_default();
            let cause =
                format!("domain {} is over {} at the source and {} in Supabase", kind.name, base(kind), base(other));
            all.push(Trouble::bad(cause).by_hand("make it anew in Supabase as `lockstep schema` prints it"));
        }
    }
    all
}

pub(super) fn composites(case: &Case) -> Vec<Trouble> {
    let Some((types, there)) = both(case) else { return Vec::new() };
    let mut all = Vec::new();
    for kind in types.into_iter().filter(|kind| kind.kind == "c") {
        let (Some(fields), Some(known)) = (&kind.fields, of(there, kind).and_then(|other| other.fields.as_ref()))
        else {
            continue;
        };
        let same = |one: &Field, other: &Field| one.name == other.name && one.type_name == other.type_name;
        let begins = fields.len() >= known.len() && fields.iter().zip(known).all(|(one, other)| same(one, other));
        if begins && fields.len() == known.len() {
            continue;
        }
        let trouble = Trouble::bad(format!("type {} has other fields in Supabase than at the source", kind.name));
        all.push(match begins {
            true => {
                let adds = fields[known.len()..].iter();
                let adds =
                    adds.map(|f| format!("alter type {} add attribute {} {}", kind.name, ident(&f.name), f.type_name));
                trouble.sql(Side::Target, adds)
            }
            false => trouble.by_hand("make it anew in Supabase as `lockstep schema` prints it"),
        });
    }
    all
}
