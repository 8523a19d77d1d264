//! The triggers of one table as SQL, and what they look at.

use crate::pg::client::PINNED;
use crate::pg::quote::{ident, literal, table};
use crate::types::TableName;

const ON_TABLE: &str = include_str!("../../../sql/source/journal_table.sql");

/// One relation that is written by statements: a table, the root of partitions, or one of the partitions.
pub(super) struct Place {
    pub(super) oid: u32,
    pub(super) name: TableName,
    pub(super) root: u32,
    pub(super) kind: String,
    pub(super) columns: Vec<String>,
    pub(super) types: Vec<u32>,
    pub(super) key: Vec<String>,
    /// The operator that the key's index compares each column by, with its schema.
    pub(super) equal: Vec<String>,
    pub(super) signature: Option<String>,
    /// Triggers of ours that are there and switched on.
    pub(super) triggers: i64,
    pub(super) body: Option<String>,
}

/// What a trigger function sees of the table it stands on: `{oid}`.
pub(super) const SIGNATURE: &str = "(select string_agg(a.attname || ' ' || a.atttypid || a.attgenerated::text, ',' order by a.attnum) \
     from pg_attribute a where a.attrelid = {oid} and a.attnum > 0 and not a.attisdropped) || ' key ' || \
     coalesce((select string_agg(i.indkey::text, ';' order by i.indexrelid) from pg_index i where i.indrelid = {oid} \
       and (i.indisprimary or i.indisreplident)), '') || \
     coalesce(' of ' || pg_partition_root({oid})::oid, '')";

/// A function's definition, and what of it the catalog keeps as its source.
pub(super) struct Function {
    pub(super) text: String,
    pub(super) prosrc: String,
}

const QUOTE: &str = "$journal$";

/// Puts what belongs there in the place of each `{word}`. What is put in is not looked at again.
fn fill(template: &str, of: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let Some((word, behind)) = after.split_once('}') else { break };
        out.push_str(&of(word));
        rest = behind;
    }
    out.push_str(rest);
    out
}

impl Place {
    fn function_name(&self) -> String {
        format!("lockstep.journal_{}", self.oid)
    }

    /// A partition that is emptied by itself is the root's to see: the journal knows no truncate of a part.
    fn is_part(&self) -> bool {
        self.oid != self.root
    }

    pub(super) fn wanted_triggers(&self) -> i64 {
        if self.is_part() { 3 } else { 4 }
    }

    pub(super) fn function(&self, shape: i32) -> Function {
        let of = |alias: &str, names: &[String]| {
            let columns: Vec<String> = names.iter().map(|name| format!("{alias}.{}", ident(name))).collect();
            format!("row({})::text", columns.join(", "))
        };
        let same = |alias: &str, names: &[String]| {
            let pairs = self.key.iter().zip(names).zip(&self.equal);
            let pairs =
                pairs.map(|((name, other), equal)| format!("t.{} {equal} {alias}.{}", ident(name), ident(other)));
            pairs.collect::<Vec<_>>().join(" and ")
        };
        // Beside a number of ours, the key's columns have names of ours.
        let numbers: Vec<String> = (0..self.key.len()).map(|at| format!("k{at}")).collect();
        let numbered = |alias: &str| {
            let columns = self.key.iter().zip(&numbers);
            let columns = columns.map(|(name, number)| format!("{alias}.{} as {number}", ident(name)));
            columns.collect::<Vec<_>>().join(", ")
        };
        let pins = PINNED.iter().filter(|(name, _)| *name != "client_encoding");
        let pins: String = pins.map(|(name, value)| format!("set {name} = '{value}'\n")).collect();
        let only = if self.kind == "r" { "only " } else { "" };
        let body = fill(ON_TABLE, |what| match what {
            "function" => self.function_name(),
            "pins" => format!("{pins}set lc_monetary = 'C'\n"),
            "signature_now" => SIGNATURE.replace("{oid}", "tg_relid"),
            "signature" => literal(self.signature.as_deref().unwrap_or_default()),
            "shape" => shape.to_string(),
            "line" => of("t", &self.columns),
            "relation" => self.root.to_string(),
            "old_keys" => numbered("o"),
            "new_keys" => numbered("n"),
            "key_of_a" => of("a", &numbers),
            "key_of_b" => of("b", &numbers),
            "t_is_a" => same("a", &numbers),
            "key_of_n" => of("n", &self.key),
            "key_of_o" => of("o", &self.key),
            "key_of_t" => of("t", &self.key),
            "t_is_n" => same("n", &self.key),
            "t_is_o" => same("o", &self.key),
            "table" => format!("{only}{}", table(&self.name)),
            "schema" => literal(&self.name.schema),
            "name" => literal(&self.name.name),
            _ => QUOTE.to_owned(),
        });
        // The quotes stand twice, unless a name holds them too.
        let mut quote = QUOTE.to_owned();
        while body.matches(quote.as_str()).count() > 2 {
            quote.insert(1, '_');
        }
        let (head, rest) = body.split_once(QUOTE).unwrap_or((&body, ""));
        let (inner, tail) = rest.rsplit_once(QUOTE).unwrap_or((rest, ""));
        let prosrc = inner.to_owned();
        Function { text: format!("{head}{quote}{inner}{quote}{tail}"), prosrc }
    }

    pub(super) fn trigger_statements(&self) -> String {
        let on = table(&self.name);
        let mut sql = String::new();
        for (event, tables) in [
            ("insert", "referencing new table as new_rows "),
            ("update", "referencing old table as old_rows new table as new_rows "),
            ("delete", "referencing old table as old_rows "),
            ("truncate", ""),
        ] {
            sql += &format!("drop trigger if exists lockstep_journal_{event} on {on};\n");
            if event == "truncate" && self.is_part() {
                continue; // the one of a table that has become a part is gone
            }
            sql += &format!(
                "create trigger lockstep_journal_{event} after {event} on {on} {tables}for each statement execute \
                 function {}();\n",
                self.function_name()
            );
        }
        sql
    }
}
