//! `lockstep data`: what is there, counted, table by table on both sides. Exit 0: the numbers are the same, 1: they are
//! not, 2: a side could not be counted. Equal numbers are no proof; `lockstep verify` is.

use std::io::IsTerminal;

use serde_json::json;

use super::Failure;
use super::output::{Paint, align, thousands};
use crate::app::{Counted, data};
use crate::config::Settings;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Only these: `agents` or `public.agents`
    #[arg(value_name = "TABLE")]
    tables: Vec<String>,
    /// Print the numbers as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, settings: &Settings) -> Result<(), Failure> {
    settings.source.url()?;
    settings.supabase.endpoint()?;
    let all = data(settings, &args.tables).await?;
    match args.json {
        true => println!("{}", json!({"tables": all.iter().map(as_json).collect::<Vec<_>>()})),
        false => print!("{}", text(&all, Paint::new(std::io::stdout().is_terminal()))),
    }
    let same = |one: &Counted| matches!((&one.source, &one.target), (Ok(source), Ok(target)) if source == target);
    match all.iter().all(same) {
        true => Ok(()),
        false if all.iter().any(|one| one.source.is_err() || one.target.is_err()) => Err(Failure::CannotTell),
        false => Err(Failure::No),
    }
}

fn as_json(one: &Counted) -> serde_json::Value {
    let errors: Vec<&String> = [&one.source, &one.target].into_iter().filter_map(|side| side.as_ref().err()).collect();
    json!({"table": one.table.to_string(), "source": one.source.as_ref().ok(), "target": one.target.as_ref().ok(),
        "error": errors.first()})
}

fn text(all: &[Counted], paint: Paint) -> String {
    let said = |side: &Result<u64, String>| side.as_ref().map_or("?".into(), |rows| thousands(*rows));
    let mut rows = vec![["table", "source", "Supabase", ""].map(str::to_owned).to_vec()];
    rows.extend(all.iter().map(|one| {
        let note = match (&one.source, &one.target) {
            (Err(why), _) | (_, Err(why)) => why.clone(),
            (Ok(source), Ok(target)) if source > target => format!("{} to come", thousands(source - target)),
            (Ok(source), Ok(target)) if source < target => format!("{} more there", thousands(target - source)),
            _ => String::new(),
        };
        vec![one.table.to_string(), said(&one.source), said(&one.target), note]
    }));
    let mut out = String::new();
    for (at, line) in align(&rows).iter().enumerate() {
        let line = match at.checked_sub(1).map(|at| (&all[at].source, &all[at].target)) {
            None => paint.faint(line),
            Some((Ok(source), Ok(target))) if source == target => line.clone(),
            Some(_) => paint.yellow(line),
        };
        out += &format!("{}\n", line.trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TableName;

    #[test]
    fn numbers_stand_side_by_side_and_what_could_not_be_counted_says_why() {
        let one = |name: &str, source, target| Counted { table: TableName::new("public", name), source, target };
        let all = [
            one("agents", Ok(1200), Ok(1200)),
            one("tasks", Ok(10), Ok(7)),
            one("notes", Ok(1), Err("no such table in Supabase".into())),
        ];
        assert_eq!(
            text(&all, Paint::new(false)),
            "table          source  Supabase\npublic.agents  1,200   1,200\npublic.tasks   10      7         3 to come\n\
             public.notes   1       ?         no such table in Supabase\n"
        );
    }
}
