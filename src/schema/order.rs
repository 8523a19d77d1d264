//! What the chosen tables need, and in which order it can be created.

use std::collections::BTreeSet;

use super::obstacle;
use crate::pg::catalog::shape::*;

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub extensions: BTreeSet<String>,
    /// As SQL spells them; without `public`, which every target has.
    pub schemas: BTreeSet<String>,
    pub collations: Vec<u32>,
    pub sequences: Vec<u32>,
    /// Each after all that it needs.
    pub items: Vec<Item>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Type(u32),
    /// Place in `Shape::tables`.
    Table(usize),
}

pub(super) fn plan(shape: &Shape) -> Plan {
    let mut walk = Walk { shape, plan: Plan::default(), types: BTreeSet::new(), tables: BTreeSet::new() };
    // All types first, for the reader's sake; a type that is a chosen table's row draws its table before itself.
    for table in shape.tables.iter().filter(|table| table.partition_of.is_none()) {
        for column in &table.columns {
            walk.type_(column.type_oid);
        }
    }
    for place in 0..shape.tables.len() {
        walk.table(place);
    }
    let mut plan = walk.plan;
    plan.sequences.sort_by_key(|oid| &shape.sequences[oid].name);
    plan.sequences.dedup();
    plan.collations.sort_by_key(|oid| &shape.collations[oid].name);
    plan.collations.dedup();
    let sequences = plan.sequences.iter().map(|oid| &shape.sequences[oid].name);
    let collations = plan.collations.iter().map(|oid| &shape.collations[oid].name);
    let items = plan.items.iter().map(|item| match *item {
        Item::Type(oid) => &shape.types[&oid].name,
        Item::Table(place) => &shape.tables[place].name,
    });
    plan.schemas = sequences.chain(collations).chain(items).map(|name| name.schema_sql.clone()).collect();
    plan.schemas.remove("public");
    plan
}

struct Walk<'a> {
    shape: &'a Shape,
    plan: Plan,
    types: BTreeSet<u32>,
    tables: BTreeSet<usize>,
}

impl Walk<'_> {
    fn type_(&mut self, oid: u32) {
        let Some(found) = self.shape.types.get(&oid) else { return }; // built in
        if !self.types.insert(oid) {
            return;
        }
        if let Some(extension) = &found.extension {
            self.plan.extensions.insert(extension.clone());
            return;
        }
        match &found.kind {
            TypeKind::Array { element } => return self.type_(*element),
            TypeKind::Multirange { range } => return self.type_(*range),
            TypeKind::Composite { table: Some(table), .. } if self.place(*table).is_some() => {
                return self.place(*table).into_iter().for_each(|place| self.table(place));
            }
            TypeKind::Composite { fields, .. } => fields.iter().for_each(|field| self.field(field)),
            TypeKind::Domain(domain) => {
                self.field(&domain.base);
                self.kept(&domain.uses);
                domain.checks.iter().for_each(|check| self.kept(&check.uses));
            }
            TypeKind::Range(range) => {
                self.field(&range.subtype);
                self.kept(&range.uses);
            }
            TypeKind::Enum { .. } | TypeKind::Base => {}
        }
        self.plan.items.push(Item::Type(oid));
    }

    fn table(&mut self, place: usize) {
        if !self.tables.insert(place) {
            return;
        }
        let table = &self.shape.tables[place];
        match &table.partition_of {
            Some(parent) => self.place(parent.oid).into_iter().for_each(|place| self.table(place)),
            None => table.columns.iter().for_each(|column| self.column(column)),
        }
        let constraints = table.constraints.iter().filter(|constraint| constraint.validated);
        constraints.for_each(|constraint| self.kept(&constraint.uses));
        table.indexes.iter().for_each(|index| self.kept(&index.uses));
        self.plan.items.push(Item::Table(place));
    }

    fn column(&mut self, column: &ColumnShape) {
        self.type_(column.type_oid);
        self.collation(column.collation.as_ref());
        match &column.default {
            ColumnDefault::Expression { uses, .. } | ColumnDefault::Generated { uses, .. } => self.kept(uses),
            ColumnDefault::None | ColumnDefault::Identity { .. } => {}
        }
    }

    fn field(&mut self, field: &Field) {
        self.type_(field.type_oid);
        self.collation(field.collation.as_ref());
    }

    fn collation(&mut self, collation: Option<&CollationUse>) {
        let own = collation.map(|collation| collation.oid);
        self.plan.collations.extend(own.filter(|oid| self.shape.collations.contains_key(oid)));
    }

    /// What a piece needs is only needed when the piece itself is kept.
    fn kept(&mut self, uses: &Uses) {
        if obstacle(uses).is_some() {
            return;
        }
        self.plan.extensions.extend(uses.extensions.iter().cloned());
        uses.types.iter().for_each(|&oid| self.type_(oid));
        self.plan.sequences.extend(uses.sequences.iter().filter(|oid| self.shape.sequences.contains_key(oid)));
        self.plan.collations.extend(uses.collations.iter().filter(|oid| self.shape.collations.contains_key(oid)));
    }

    fn place(&self, table: u32) -> Option<usize> {
        self.shape.tables.iter().position(|candidate| candidate.oid == table)
    }
}
