//! What is new among the workflows since they were read last, for the time line: whoever wrote it, by the page, by the
//! command line or by plain SQL.

use std::collections::BTreeMap;

use crate::ledger::workflows::Stored;
use crate::types::{Activity, Timeline};

/// Lines of one look. More than that is somebody's script, which is told by a number.
const LINES: usize = 20;

pub struct Noted {
    timeline: Timeline,
    /// `None`: not read yet, so that nobody knows what is new.
    known: Option<BTreeMap<String, Stored>>,
}

impl Noted {
    pub fn new(timeline: Timeline) -> Self {
        Self { timeline, known: None }
    }

    /// Tells what is new. `whole`: these are all there are, so that one that is missing was deleted. Says whether
    /// anything is.
    pub fn look(&mut self, stored: &[Stored], whole: bool) -> bool {
        let now: BTreeMap<String, Stored> = stored.iter().map(|stored| (stored.id.clone(), stored.clone())).collect();
        let Some(known) = self.known.replace(now) else { return true };
        let Some(now) = &self.known else { return true };
        let news = news(&known, now, whole);
        let many = news.len();
        news.into_iter().take(LINES).for_each(|line| self.timeline.tell(line));
        if many > LINES {
            let what = format!("and {} more workflows changed", many - LINES);
            self.timeline.tell(Activity::new("workflow", "lockstep", what));
        }
        many > 0
    }
}

fn news(known: &BTreeMap<String, Stored>, now: &BTreeMap<String, Stored>, whole: bool) -> Vec<Activity> {
    let line = |stored: &Stored, what: &str| {
        let what = format!("workflow {}: {what}", stored.workflow_name);
        Activity::new("workflow", "lockstep", what).at(stored.trigger_table.clone())
    };
    let mut news = Vec::new();
    for (id, stored) in now {
        match known.get(id) {
            None => news.push(line(stored, if stored.enabled { "is new" } else { "is new, and off" })),
            Some(before) if before.enabled != stored.enabled => {
                news.push(line(stored, if stored.enabled { "is on" } else { "is off" }));
            }
            Some(before) if says(before) != says(stored) => news.push(line(stored, "says something else")),
            Some(_) => {}
        }
    }
    let gone = known.iter().filter(|(id, _)| whole && !now.contains_key(*id));
    news.extend(gone.map(|(_, stored)| line(stored, "is deleted")));
    news
}

/// Without its times.
fn says(stored: &Stored) -> (&str, &str, &str, Option<&serde_json::Value>) {
    (&stored.workflow_name, &stored.trigger_table, &stored.trigger_event, stored.action_config.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_told_once_and_what_was_there_at_the_start_is_not() {
        let (timeline, mut told) = Timeline::new();
        let mut noted = Noted::new(timeline);
        let stored = |id: &str, table: &str, enabled| Stored {
            id: id.into(),
            workflow_name: id.to_uppercase(),
            trigger_table: table.into(),
            enabled,
            ..Stored::default()
        };
        let mut lines = |noted: &mut Noted, stored: &[Stored], whole| {
            noted.look(stored, whole);
            std::iter::from_fn(|| told.queue.try_recv().ok()).map(|line| line.what).collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(lines(&mut noted, &[stored("a", "t", true)], true), none);
        assert_eq!(
            lines(&mut noted, &[stored("a", "t", false), stored("b", "t", true)], true),
            ["workflow A: is off", "workflow B: is new"]
        );
        let later = [Stored { updated_at: Some("now".into()), ..stored("a", "t", false) }, stored("b", "u", true)];
        assert_eq!(lines(&mut noted, &later, true), ["workflow B: says something else"]);
        assert_eq!(lines(&mut noted, &[stored("b", "u", true)], true), ["workflow A: is deleted"]);
        assert_eq!(lines(&mut noted, &[], false), none, "not all were read");
        let many: Vec<Stored> = (0..50).map(|n| stored(&n.to_string(), "t", true)).collect();
        assert_eq!(lines(&mut noted, &many, true).len(), LINES + 1);
    }
}
