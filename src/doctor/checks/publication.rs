//! The publication: what the source hands out, which must be whole rows of every chosen table.

use crate::app::judge::few;
use crate::doctor::case::Case;
use crate::doctor::facts::{Facts, Publication, Published};
use crate::doctor::finding::{Side, Trouble};
use crate::remedy;
use crate::types::{Table, TableName};

fn both(case: &Case) -> Option<(&Facts, &Publication)> {
    let (_, facts) = case.here()?;
    Some((facts, facts.publication.as_ref()?))
}

fn name(case: &Case) -> &str {
    &case.settings.source.publication
}

fn named(tables: &[TableName]) -> String {
    few(&tables.iter().map(TableName::to_string).collect::<Vec<_>>(), ", ")
}

fn owns_all(facts: &Facts, tables: &[TableName]) -> bool {
    facts.server.superuser || tables.iter().all(|name| facts.table(name).is_none_or(|table| table.mine))
}

pub(super) fn there(case: &Case) -> Vec<Trouble> {
    let Some((source, facts)) = case.here() else { return Vec::new() };
    if facts.publication.is_some() {
        return Vec::new();
    }
    let tables: Vec<TableName> = source.tables.iter().map(|table| table.name.clone()).collect();
    let create = [remedy::create_publication(name(case), &tables)];
    if facts.slot.is_some() && super::slot::kind(case).is_empty() {
        // The stream reads the catalogs as they were at each change.
        let fault = crate::capture::slot::publication::gone(&case.settings.source.slot, name(case));
        let drop = [remedy::drop_slot(&case.settings.source.slot)];
        return vec![
            Trouble::fault(&fault)
                .sql(Side::Source, drop.into_iter().chain(create))
                .or("then start: both sides are compared")
                .decide(),
        ];
    }
    let may = facts.server.superuser || facts.server.may_create && owns_all(facts, &tables);
    if case.settings.source.create && may {
        return vec![Trouble::ok(format!("the first start makes publication {}", name(case)))];
    }
    let why = if case.settings.source.create { ", and the role may not create it" } else { "" };
    vec![Trouble::bad(format!("the source has no publication {}{why}", name(case))).sql(Side::Source, create)]
}

pub(super) fn changes(case: &Case) -> Vec<Trouble> {
    let Some((_, found)) = both(case) else { return Vec::new() };
    let kinds = [
        (found.insert, "insert"),
        (found.update, "update"),
        (found.delete, "delete"),
        (found.truncate, "truncate"),
        (found.via_root, "partitions as their root"),
    ];
    let missing: Vec<&str> = kinds.iter().filter(|(there, _)| !there).map(|(_, kind)| *kind).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    vec![
        Trouble::bad(format!("publication {} leaves out: {}", name(case), missing.join(", ")))
            .sql(Side::Source, [remedy::publish_all(name(case))]),
    ]
}

fn published<'a>(found: &'a Publication, name: &TableName) -> Option<&'a Published> {
    found.tables.iter().find(|table| table.schema == name.schema && table.name == name.name)
}

fn is_named(found: &Publication, name: &TableName) -> bool {
    found.all_tables || found.named.iter().any(|table| table.schema == name.schema && table.name == name.name)
}

pub(super) fn tables(case: &Case) -> Vec<Trouble> {
    let Some((facts, found)) = both(case) else { return Vec::new() };
    let names = case.tables().iter().map(|table| &table.name);
    let missing: Vec<TableName> =
        names.filter(|name| published(found, name).is_none() && !is_named(found, name)).cloned().collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let may = facts.server.superuser || found.mine && owns_all(facts, &missing);
    if case.settings.source.create && may {
        return vec![Trouble::ok(format!("the next start publishes {}", named(&missing)))];
    }
    let owner = match found.mine {
        true => String::new(),
        false => format!(", which {} owns", found.owner),
    };
    vec![
        Trouble::bad(format!("publication {}{owner} lacks {}", name(case), named(&missing)))
            .sql(Side::Source, [remedy::publish(name(case), &missing)]),
    ]
}

pub(super) fn parts(case: &Case) -> Vec<Trouble> {
    let Some((_, found)) = both(case) else { return Vec::new() };
    let trouble = |table: &Table| {
        let published = published(found, &table.name)?;
        let lacks = |list: &Vec<String>| {
            let missing = table.columns.iter().filter(|column| !list.contains(&column.name));
            let missing: Vec<&str> = missing.map(|column| column.name.as_str()).collect();
            (!missing.is_empty()).then(|| format!("column list without {}", missing.join(", ")))
        };
        let filter = published.filter.as_ref().map(|filter| format!("row filter {filter}"));
        let what = filter.or_else(|| published.columns.as_ref().and_then(lacks))?;
        let one = std::slice::from_ref(&table.name);
        let anew = [remedy::unpublish(name(case), one), remedy::publish(name(case), one)];
        Some(
            Trouble::bad(format!("publication {} has for {} a {what}: changes are left out", name(case), table.name))
                .at(&table.name)
                .sql(Side::Source, [anew.join("; ")]),
        )
    };
    case.tables().iter().filter_map(trouble).collect()
}

pub(super) fn others(case: &Case) -> Vec<Trouble> {
    let Some((_, found)) = both(case) else { return Vec::new() };
    let chosen = |one: &Published| case.tables().iter().any(|t| t.name.schema == one.schema && t.name.name == one.name);
    let part = |one: &Published| {
        let tables = case.here().into_iter().flat_map(|(_, facts)| &facts.tables);
        tables.flat_map(|table| &table.partitions).any(|part| part.schema == one.schema && part.name == one.name)
    };
    let trouble = |one: &Published| {
        let table = TableName::new(one.schema.as_str(), one.name.as_str());
        let what = match one.identity || !(found.update || found.delete) {
            true => Trouble::warn(format!("{table} is published and not replicated: its changes are sent in vain")),
            false => Trouble::bad(format!("{table} is published and has no replica identity: its updates fail")),
        };
        match found.all_tables {
            false => what.at(&table).sql(Side::Source, [remedy::unpublish(name(case), std::slice::from_ref(&table))]),
            true => {
                let drop = format!("drop publication {}", crate::pg::quote::ident(name(case)));
                let names: Vec<TableName> = case.tables().iter().map(|table| table.name.clone()).collect();
                what.at(&table)
                    .sql(Side::Source, [drop, remedy::create_publication(name(case), &names)])
                    .said("make the publication anew, for the chosen tables only: lockstep setup source --print")
                    .decide()
            }
        }
    };
    found.tables.iter().filter(|one| !chosen(one) && !part(one)).map(trouble).collect()
}
