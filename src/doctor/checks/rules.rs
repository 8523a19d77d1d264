//! What over there refuses or changes rows that the source has accepted: unique rules, checks, foreign keys, triggers.

use crate::doctor::case::{Case, Pair};
use crate::doctor::facts::{Constraint, Trigger, Unique};
use crate::doctor::finding::{Side, Trouble};
use crate::pg::quote::ident;
use crate::remedy;

pub(super) fn unique(case: &Case) -> Vec<Trouble> {
    let mut all = Vec::new();
    for Pair { table, here, there } in case.pairs() {
        let implied = |rule: &Unique| {
            let covers = |known: &Unique| known.plain && known.columns.iter().all(|c| rule.columns.contains(c));
            rule.plain && here.uniques.iter().any(covers) || here.uniques.iter().any(|known| known.rest == rule.rest)
        };
        for rule in there.uniques.iter().filter(|rule| !rule.primary && !implied(rule)) {
            let cause = format!("{} has in Supabase a unique rule that the source has not: {}", table.name, rule.rest);
            let index = crate::types::TableName::new(table.name.schema.as_str(), rule.index.as_str());
            let drop = match &rule.constraint {
                Some(name) => remedy::drop_constraint(&table.name, name),
                None => format!("drop index {}", crate::pg::quote::table(&index)),
            };
            all.push(Trouble::bad(cause).at(&table.name).sql(Side::Target, [drop]).decide());
        }
    }
    all
}

pub(super) fn checks(case: &Case) -> Vec<Trouble> {
    let strict = |rule: &Constraint| matches!(rule.kind.as_str(), "c" | "x");
    extra(case, strict, "a check that the source has not")
}

pub(super) fn foreign_keys(case: &Case) -> Vec<Trouble> {
    if !case.target_acts() {
        return vec![Trouble::ok("foreign keys are left to the source")];
    }
    let mut all = extra(case, |rule| rule.kind == "f", "a foreign key that the source has not");
    // The source has it too, but what it refers to does not come.
    for Pair { table, there, .. } in case.pairs() {
        let chosen = |rule: &Constraint| {
            case.tables()
                .iter()
                .any(|t| rule.schema.as_ref() == Some(&t.name.schema) && rule.table.as_ref() == Some(&t.name.name))
        };
        for rule in there.constraints.iter().filter(|rule| rule.kind == "f" && !chosen(rule)) {
            let cause = format!(
                "foreign key {} of {} refers to a table that is not replicated: {}",
                rule.name, table.name, rule.definition
            );
            let drop = remedy::drop_constraint(&table.name, &rule.name);
            if !all.iter().any(|trouble| trouble.fix.as_ref().is_some_and(|fix| fix.sql.contains(&drop))) {
                all.push(
                    Trouble::bad(cause)
                        .at(&table.name)
                        .sql(Side::Target, [drop])
                        .or("or replicate that table")
                        .decide(),
                );
            }
        }
    }
    all
}

fn extra(case: &Case, of: fn(&Constraint) -> bool, what: &str) -> Vec<Trouble> {
    let mut all = Vec::new();
    for Pair { table, here, there } in case.pairs() {
        let here: Vec<String> = here.constraints.iter().map(|rule| bare(&rule.definition)).collect();
        let known = |rule: &Constraint| here.contains(&bare(&rule.definition));
        for rule in there.constraints.iter().filter(|rule| of(rule) && !known(rule)) {
            let cause = format!("{} has in Supabase {what}: {} {}", table.name, rule.name, rule.definition);
            let drop = remedy::drop_constraint(&table.name, &rule.name);
            all.push(Trouble::bad(cause).at(&table.name).sql(Side::Target, [drop]).decide());
        }
    }
    all
}

/// A definition without the casts and parentheses that Postgres adds when it reads its own spelling again: the same rule
/// is written `'a'::character varying)::text` by one server and otherwise by the one that got it from there.
fn bare(definition: &str) -> String {
    let mut out = String::new();
    let mut rest = definition;
    while let Some(next) = rest.chars().next() {
        if next == '\'' || next == '"' {
            let end = rest[1..].find(next).map_or(rest.len(), |at| at + 2);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else if let Some(cast) = rest.strip_prefix("::") {
            rest = behind_type(cast);
        } else {
            if !next.is_whitespace() && next != '(' && next != ')' {
                out.push(next);
            }
            rest = &rest[next.len_utf8()..];
        }
    }
    out
}

/// What follows the name of a type.
fn behind_type(text: &str) -> &str {
    let mut rest = text.trim_start_matches(|c: char| c.is_alphanumeric() || "_.\"".contains(c));
    for word in [" varying", " precision"] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    if let Some(inner) = rest.strip_prefix('(')
        && let Some((modifier, behind)) = inner.split_once(')')
        && modifier.chars().all(|c| c.is_ascii_digit() || c == ',')
    {
        rest = behind;
    }
    for word in [" without time zone", " with time zone"] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    rest.trim_start_matches("[]")
}

/// Whether a trigger runs on what we write.
fn acts(case: &Case, trigger: &Trigger) -> bool {
    match trigger.enabled.as_str() {
        "A" => true,
        "O" => case.target_acts(),
        "R" => !case.target_acts(),
        _ => false,
    }
}

/// Triggers run with the rights of the owner of our functions, whoever wrote them.
pub(super) fn triggers(case: &Case) -> Vec<Trouble> {
    let mut all = Vec::new();
    for Pair { table, there, .. } in case.pairs() {
        for trigger in there.triggers.iter().filter(|trigger| acts(case, trigger)) {
            let disable = format!(
                "alter table {} disable trigger {}",
                crate::pg::quote::table(&table.name),
                ident(&trigger.name)
            );
            let owner = match trigger.foreign {
                true => format!(", code of {}, with the rights of {}", trigger.owner, owner_of_doors(case)),
                false => String::new(),
            };
            let cause = format!(
                "trigger {} of {} acts in Supabase on replicated rows ({}{owner})",
                trigger.name, table.name, trigger.function
            );
            all.push(Trouble::warn(cause).at(&table.name).sql(Side::Target, [disable]).lock().decide());
        }
    }
    all
}

fn owner_of_doors(case: &Case) -> &str {
    case.target.facts.as_ref().map_or("", |facts| facts.server.owner.as_str())
}

/// Without the right, what the source has done already is done again: a cascade, a trigger's row.
pub(super) fn suppress(case: &Case) -> Vec<Trouble> {
    if case.settings.apply.triggers == crate::config::Triggers::Fire {
        return vec![Trouble::ok("triggers and foreign keys act in Supabase, as the settings want it")];
    }
    let active = case
        .pairs()
        .iter()
        .any(|pair| !pair.there.triggers.is_empty() || pair.there.constraints.iter().any(|rule| rule.kind == "f"));
    if !case.target_acts() || !active {
        return Vec::new();
    }
    let grant = format!("grant set on parameter session_replication_role to {}", ident(owner_of_doors(case)));
    vec![
        Trouble::warn("triggers and foreign keys act in Supabase too: session_replication_role may not be set there")
            .sql(Side::Target, [grant])
            .or("(as superuser); or accept it: LOCKSTEP_TRIGGERS=fire (apply.triggers in lockstep.toml)")
            .decide(),
    ]
}

#[cfg(test)]
mod tests {
    use super::bare;

    #[test]
    fn one_rule_in_two_spellings_is_one_rule_and_another_one_is_not() {
        let first = "CHECK (((status)::text = ANY ((ARRAY['idle'::character varying, 'b''(usy)'::character varying])::text[])))";
        let again = "CHECK (((status)::text = ANY (ARRAY[('idle'::character varying)::text, ('b''(usy)'::character varying)::text])))";
        assert_eq!(bare(first), bare(again));
        assert_eq!(bare("CHECK ((at > '1 2'::timestamp(3) without time zone))"), "CHECKat>'1 2'");
        for other in [first.replace("idle", "idl"), first.replace("(usy)", "usy"), first.replace("ANY", "ALL")] {
            assert_ne!(bare(first), bare(&other));
        }
    }
}
