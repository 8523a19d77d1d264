//! Which tables the settings choose.

use crate::types::{Fault, TableName};

/// Tables by schema and by name. An entry of `include` or `exclude` is `table`, which means that table in any of the
/// schemas, or `schema.table`, which is meant whatever the schemas; `*` stands for any run of characters. Names are
/// written as they are, without quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub schemas: Vec<String>,
    /// Empty: every table of the schemas.
    pub include: Vec<String>,
    pub exclude: Vec<String>,
}

impl Default for Selection {
    fn default() -> Self {
        Self { schemas: vec!["public".to_owned()], include: Vec::new(), exclude: Vec::new() }
    }
}

impl Selection {
    /// Whether the table is chosen.
    pub fn takes(&self, table: &TableName) -> bool {
        let listed = |list: &[String]| list.iter().any(|entry| self.meant(entry, table));
        let chosen = if self.include.is_empty() { self.has_schema(table) } else { listed(&self.include) };
        chosen && !listed(&self.exclude)
    }

    /// Whether the table was asked for by its very name.
    pub(super) fn names(&self, table: &TableName) -> bool {
        self.include.iter().any(|entry| !entry.contains('*') && self.meant(entry, table))
    }

    /// Every schema and every name in the lists must be there: a misspelled one would quietly replicate nothing.
    pub(super) fn check(&self, tables: &[&TableName]) -> Result<(), Fault> {
        for entry in self.include.iter().filter(|entry| !entry.contains('*')) {
            if tables.iter().any(|table| self.meant(entry, table)) {
                continue;
            }
            let near = tables
                .iter()
                .flat_map(|table| [table.name.clone(), table.to_string()])
                .map(|name| (strsim::jaro_winkler(entry, &name), name))
                .filter(|(likeness, _)| *likeness > 0.8)
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let fix = match near {
                Some((_, name)) => format!("did you mean `{name}`? write it as it is, without quotes"),
                None => format!("choose a table that exists in {}, or write schema.table", self.schemas.join(", ")),
            };
            return Err(Fault::stop(format!("there is no table `{entry}` in the database"), fix));
        }
        Ok(())
    }

    fn meant(&self, entry: &str, table: &TableName) -> bool {
        like(entry, &table.to_string()) || self.has_schema(table) && like(entry, &table.name)
    }

    fn has_schema(&self, table: &TableName) -> bool {
        self.schemas.contains(&table.schema)
    }
}

/// Whether `name` fits `pattern`, in which `*` stands for any run of characters.
fn like(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(head) else { return false };
    let Some((middle, tail)) = rest.rsplit_once('*') else { return name.ends_with(rest) };
    for part in middle.split('*') {
        // The first place is the best one: it leaves the most for what follows.
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    name.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(schemas: &[&str], include: &[&str], exclude: &[&str]) -> Selection {
        let list = |list: &[&str]| list.iter().map(|entry| (*entry).to_owned()).collect();
        Selection { schemas: list(schemas), include: list(include), exclude: list(exclude) }
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, name) in [("*", ""), ("a*", "a"), ("*_log", "a_log"), ("a*b*c*d", "a-b-bc-cd"), ("a.*", "a.b.c")]
        {
            assert!(like(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "b"), ("a*", "ba"), ("a*a", "a"), ("a*b*b", "ab"), ("*x*", "abc")] {
            assert!(!like(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_bare_name_means_the_chosen_schemas_and_a_full_one_any() {
        let chosen = selection(&["public"], &["agents", "sales.orders"], &[]);
        assert!(chosen.takes(&TableName::new("public", "agents")));
        assert!(chosen.takes(&TableName::new("sales", "orders")));
        assert!(!chosen.takes(&TableName::new("sales", "agents")));
        assert!(!chosen.takes(&TableName::new("public", "tasks")));
    }

    #[test]
    fn what_is_excluded_stays_out_even_when_it_is_included() {
        let chosen = selection(&["public"], &[], &["*_log"]);
        assert!(chosen.takes(&TableName::new("public", "agents")));
        assert!(!chosen.takes(&TableName::new("public", "agent_log")));
        let both = selection(&["public"], &["agents"], &["public.agents"]);
        assert!(!both.takes(&TableName::new("public", "agents")));
    }

    #[test]
    fn a_name_that_is_not_there_is_refused_with_the_nearest_one() {
        let agents = TableName::new("public", "agents");
        let refused = selection(&["public"], &["agent"], &[]).check(&[&agents]).unwrap_err().to_string();
        assert!(refused.contains("`agent`") && refused.contains("`agents`"), "{refused}");
        assert_eq!(selection(&["public"], &["agents", "x*"], &[]).check(&[&agents]), Ok(()));
    }
}
