//! Rows that wait to be written: the last state of each, in the order in which they were touched first.
//!
//! It serves twice. A batch is folded into it, and what was refused waits in it: a later change of the same row takes
//! the place of the one that waits.

use std::collections::HashMap;
use std::sync::Arc;

use super::form::Form;
use crate::apply::plan::{Write, key};
use crate::rest::Failure;
use crate::types::{Relation, Tuple};

/// One row's change, with what it takes to read the row again.
#[derive(Clone, Debug)]
pub struct Item {
    pub form: Arc<Form>,
    pub relation: Arc<Relation>,
    /// Who made the change.
    pub xid: Option<u32>,
    pub write: Write,
    /// What is known of the row does not add up to the whole: it is read again before it is written.
    pub incomplete: bool,
    /// Why it waits; none for a delete that waits for the others.
    pub refusal: Option<Failure>,
}

impl Item {
    /// The row, or of one that is to go, its key.
    pub fn row(&self) -> &Tuple {
        match &self.write {
            Write::Upsert(row) | Write::Patch(row) | Write::Delete(row) | Write::Rekey { new: row, .. } => row,
        }
    }

    pub fn place(&self) -> Place {
        (self.form.oid, key(self.row(), &self.form.mapped))
    }

    fn size(&self) -> usize {
        // The key is kept twice; the rest is what the entries cost beside the row itself.
        self.row().size() * 2 + 200
    }
}

/// Which row: its table and its key.
pub type Place = (u32, Vec<u8>);

#[derive(Default)]
pub struct Latest {
    /// `None` where a row was taken out again.
    items: Vec<Option<Item>>,
    index: HashMap<Place, usize>,
    bytes: usize,
}

impl Latest {
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// About what it takes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn holds(&self, place: &Place) -> bool {
        self.index.contains_key(place)
    }

    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().flatten()
    }

    /// Takes a row's change, over what is known of the row already.
    pub fn add(&mut self, item: Item) {
        let place = item.place();
        let item = match self.take(&place) {
            // A row that was refused goes on waiting, with its newest state.
            Some(mut before) => Item { refusal: before.refusal.take(), ..after(before, item) },
            None => item,
        };
        self.bytes += item.size();
        self.index.insert(place, self.items.len());
        self.items.push(Some(item));
    }

    pub fn take(&mut self, place: &Place) -> Option<Item> {
        let item = self.items[self.index.remove(place)?].take()?;
        self.bytes = self.bytes.saturating_sub(item.size());
        Some(item)
    }

    /// All rows of a table are gone.
    pub fn forget(&mut self, table: u32) {
        let gone: Vec<Place> = self.index.keys().filter(|(oid, _)| *oid == table).cloned().collect();
        gone.iter().for_each(|place| drop(self.take(place)));
    }

    /// Everything, in order; nothing is left.
    pub fn drain(&mut self) -> Vec<Item> {
        std::mem::take(self).items.into_iter().flatten().collect()
    }
}

/// Two changes of one row as one.
fn after(before: Item, item: Item) -> Item {
    let Write::Patch(patch) = &item.write else { return item };
    let same = Arc::ptr_eq(&before.form, &item.form) && !before.incomplete;
    let write = match &before.write {
        Write::Upsert(row) if same => Write::Upsert(row.overlaid(patch)),
        Write::Patch(row) if same => Write::Patch(row.overlaid(patch)),
        // The table's columns changed in between, or there should be no row to patch.
        _ => return Item { incomplete: true, ..item },
    };
    Item { write, ..item }
}

/// What waits under a key that has changed, and its row under the new one: what the new one does not bring is known.
pub fn renamed(before: Item, item: Item) -> Item {
    after(Item { refusal: None, ..before }, item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::shape::Mapped;
    use crate::types::{Cell, TableName, TupleBuilder};

    fn form() -> Arc<Form> {
        let columns = vec![(0, "id".to_owned()), (1, "v".to_owned())];
        let table = TableName::new("public", "t");
        let mapped = Arc::new(Mapped { table, key_names: vec!["id".into()], key: vec![0], columns });
        Arc::new(Form { mapped, json: vec![None; 2], oid: 7 })
    }

    fn row(id: &str, v: Option<&str>) -> Tuple {
        let mut row = TupleBuilder::new();
        row.push(Cell::Text(id.as_bytes()));
        row.push(v.map_or(Cell::Unchanged, |v| Cell::Text(v.as_bytes())));
        row.finish()
    }

    fn item(form: &Arc<Form>, write: Write) -> Item {
        let name = form.mapped.table.clone();
        let relation = Arc::new(Relation { oid: 7, name, identity: b'd', columns: Vec::new() });
        Item { form: form.clone(), relation, xid: None, write, incomplete: false, refusal: None }
    }

    #[test]
    fn the_last_change_of_a_row_counts_and_a_part_is_laid_over_what_is_known() {
        let form = form();
        let mut latest = Latest::default();
        latest.add(item(&form, Write::Upsert(row("1", Some("a")))));
        latest.add(item(&form, Write::Delete(row("2", None))));
        latest.add(item(&form, Write::Patch(row("1", None))));
        latest.add(item(&form, Write::Patch(row("3", None))));
        latest.add(item(&form, Write::Upsert(row("2", Some("b")))));
        let all = latest.drain();
        assert!(latest.is_empty() && latest.bytes() == 0);
        let writes: Vec<String> = all.iter().map(|item| format!("{:?}", item.write)).collect();
        let expected =
            [Write::Upsert(row("1", Some("a"))), Write::Patch(row("3", None)), Write::Upsert(row("2", Some("b")))];
        assert_eq!(writes, expected.map(|write| format!("{write:?}")));
        assert!(all.iter().all(|item| !item.incomplete));
    }

    #[test]
    fn a_part_of_a_row_of_another_form_has_the_row_read_again() {
        let (old, new) = (form(), form());
        let mut latest = Latest::default();
        latest.add(item(&old, Write::Upsert(row("1", Some("a")))));
        latest.add(item(&new, Write::Patch(row("1", None))));
        assert!(latest.drain()[0].incomplete);
    }

    #[test]
    fn a_table_that_was_emptied_leaves_nothing_behind() {
        let form = form();
        let mut latest = Latest::default();
        latest.add(item(&form, Write::Upsert(row("1", Some("a")))));
        latest.forget(8);
        assert_eq!(latest.len(), 1);
        latest.forget(7);
        assert!(latest.is_empty() && latest.bytes() == 0 && latest.drain().is_empty());
    }
}
