//! Reads the shape of tables from the catalogs: one snapshot, a handful of statements, no decisions.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::{Client, Error, Row};

use super::shape::*;
use super::{Selection, Survey, survey};
use crate::pg::client::fault;
use crate::types::Fault;

/// The shape of the chosen tables with their partitions, and all types and sequences they may need.
pub async fn shape(client: &Client, selection: &Selection) -> Result<Shape, Fault> {
    client.batch_execute(BEGIN).await.map_err(|error| fault(&error))?;
    let read = in_snapshot(client, selection).await;
    // Read only: whether it ends well makes no difference to what was read.
    client.batch_execute("rollback").await.map_err(|error| fault(&error))?;
    read
}

/// Constants in expressions are printed by the session's settings: these make them the same everywhere.
const BEGIN: &str = "
begin isolation level repeatable read read only;
set local quote_all_identifiers = off;
set local datestyle = 'ISO, YMD';
set local intervalstyle = 'postgres';
set local timezone = 'UTC';
set local extra_float_digits = 3;
set local bytea_output = 'hex'";

async fn in_snapshot(client: &Client, selection: &Selection) -> Result<Shape, Fault> {
    let Survey { tables, left_out, .. } = survey(client, selection).await?;
    let chosen: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let mut shape = read(client, &chosen).await.map_err(|error| fault(&error))?;
    shape.left_out = left_out;
    Ok(shape)
}

async fn read(client: &Client, chosen: &[u32]) -> Result<Shape, Error> {
    let mut search_path = Vec::new();
    for row in client.query(EXTENSION_SCHEMAS, &[]).await? {
        search_path.push(row.try_get::<_, String>(0)?);
    }
    client.query_one(SET_SEARCH_PATH, &[&search_path.join(", ")]).await?;
    let mut uses = read_uses(client).await?;
    let mut tables = read_tables(client, chosen).await?;
    let places: HashMap<u32, usize> = tables.iter().enumerate().map(|(place, table)| (table.oid, place)).collect();
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    for row in client.query(COLUMNS, &[&oids]).await? {
        tables[places[&row.try_get(0)?]].columns.push(column(&row, &mut uses)?);
    }
    for row in client.query(CONSTRAINTS, &[&oids]).await? {
        tables[places[&row.try_get(0)?]].constraints.push(constraint(&row, &mut uses)?);
    }
    for row in client.query(INDEXES, &[&oids]).await? {
        tables[places[&row.try_get(0)?]].indexes.push(index(&row, &mut uses)?);
    }
    let types = read_types(client, &mut uses).await?;
    let sequences = read_sequences(client).await?;
    let collations = read_collations(client).await?;
    Ok(Shape { search_path, tables, types, sequences, collations, left_out: Vec::new() })
}

/// Objects of extensions are printed without their schema, since the target may keep extensions elsewhere.
const EXTENSION_SCHEMAS: &str = "
select distinct pg_catalog.quote_ident(n.nspname) collate \"C\"
from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
where n.nspname <> 'pg_catalog' order by 1";

const SET_SEARCH_PATH: &str = "select pg_catalog.set_config('search_path', $1, true)";

/// Catalog and oid of the object that refers → what it refers to.
type UsesOf = HashMap<(String, u32), Uses>;

fn taken(uses: &mut UsesOf, catalog: &str, oid: u32) -> Uses {
    uses.remove(&(catalog.to_owned(), oid)).unwrap_or_default()
}

async fn read_uses(client: &Client) -> Result<UsesOf, Error> {
    let mut uses = UsesOf::new();
    for row in client.query(USES, &[]).await? {
        let one = uses.entry((row.try_get(0)?, row.try_get(1)?)).or_default();
        let (catalog, oid): (&str, u32) = (row.try_get(2)?, row.try_get(3)?);
        match (row.try_get::<_, Option<String>>(4)?, catalog) {
            (Some(extension), _) => one.extensions.push(extension),
            (None, "pg_type") => one.types.push(oid),
            (None, "pg_class") => one.sequences.push(oid),
            (None, "pg_collation") => one.collations.push(oid),
            (None, _) => one.foreign.push(row.try_get(5)?),
        }
    }
    Ok(uses)
}

/// Below 16384 lies what initdb made, which every server has.
const USES: &str = "
select d.classid::regclass::text, d.objid, d.refclassid::regclass::text, d.refobjid, e.extname::text,
       pg_catalog.pg_describe_object(d.refclassid, d.refobjid, 0)
from pg_catalog.pg_depend d
left join pg_catalog.pg_depend x on x.classid = d.refclassid and x.objid = d.refobjid and x.deptype = 'e'
left join pg_catalog.pg_extension e on e.oid = x.refobjid
where d.refobjid >= 16384 and d.deptype in ('n', 'a') and d.objid >= 16384
  and d.classid in ('pg_catalog.pg_attrdef'::regclass, 'pg_catalog.pg_constraint'::regclass,
                    'pg_catalog.pg_class'::regclass, 'pg_catalog.pg_type'::regclass)
  and (d.refclassid in ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_operator'::regclass,
                        'pg_catalog.pg_opclass'::regclass, 'pg_catalog.pg_opfamily'::regclass,
                        'pg_catalog.pg_am'::regclass, 'pg_catalog.pg_ts_config'::regclass,
                        'pg_catalog.pg_ts_dict'::regclass, 'pg_catalog.pg_type'::regclass,
                        'pg_catalog.pg_collation'::regclass)
       or d.classid = 'pg_catalog.pg_attrdef'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass
          and exists (select from pg_catalog.pg_class s where s.oid = d.refobjid and s.relkind = 'S'))
order by d.classid, d.objid, pg_catalog.pg_describe_object(d.refclassid, d.refobjid, 0) collate \"C\"";

async fn read_tables(client: &Client, chosen: &[u32]) -> Result<Vec<TableShape>, Error> {
    let mut tables = Vec::new();
    for row in client.query(TABLES, &[&chosen]).await? {
        let parent = match (row.try_get::<_, Option<u32>>(1)?, row.try_get::<_, Option<String>>(2)?) {
            (Some(oid), Some(bound)) => Some(Parent { oid, bound }),
            _ => None,
        };
        tables.push(TableShape {
            oid: row.try_get(0)?,
            name: name(&row, 5)?,
            partition_key: row.try_get(3)?,
            partition_of: parent,
            comment: row.try_get(4)?,
            ..TableShape::default()
        });
    }
    Ok(tables)
}

const TABLES: &str = "
with recursive chosen (oid, parent, level) as (
    select oid, null::oid, 0 from unnest($1::oid[]) c (oid)
    union all
    select i.inhrelid, i.inhparent, p.level + 1
    from chosen p
    join pg_catalog.pg_inherits i on i.inhparent = p.oid
    join pg_catalog.pg_class c on c.oid = i.inhrelid and c.relispartition
)
select c.oid, p.parent, pg_catalog.pg_get_expr(c.relpartbound, c.oid),
       case c.relkind when 'p' then pg_catalog.pg_get_partkeydef(c.oid) end,
       pg_catalog.quote_literal(pg_catalog.obj_description(c.oid, 'pg_class')),
       n.nspname, c.relname, format('%I.%I', n.nspname, c.relname), pg_catalog.quote_ident(n.nspname)
from chosen p
join pg_catalog.pg_class c on c.oid = p.oid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
order by p.level, n.nspname collate \"C\", c.relname collate \"C\"";

fn name(row: &Row, at: usize) -> Result<Name, Error> {
    Ok(Name {
        schema: row.try_get(at)?,
        name: row.try_get(at + 1)?,
        sql: row.try_get(at + 2)?,
        schema_sql: row.try_get(at + 3)?,
    })
}

fn collation(row: &Row, at: usize) -> Result<Option<CollationUse>, Error> {
    Ok(match (row.try_get(at)?, row.try_get(at + 1)?) {
        (Some(oid), Some(sql)) => Some(CollationUse { oid, sql }),
        _ => None,
    })
}

fn column(row: &Row, uses: &mut UsesOf) -> Result<ColumnShape, Error> {
    let expression: Option<String> = row.try_get(9)?;
    let uses = match row.try_get::<_, Option<u32>>(10)? {
        Some(oid) => taken(uses, "pg_attrdef", oid),
        None => Uses::default(),
    };
    let default = match (row.try_get::<_, &str>(7)?, row.try_get::<_, &str>(8)?, expression) {
        ("", "", None) => ColumnDefault::None,
        ("", "", Some(sql)) => ColumnDefault::Expression { sql, uses },
        ("", _, Some(sql)) => ColumnDefault::Generated { sql, uses },
        (identity, _, _) => ColumnDefault::Identity { always: identity == "a", sequence: sequence_options(row, 12)? },
    };
    Ok(ColumnShape {
        sql: row.try_get(1)?,
        type_sql: row.try_get(2)?,
        type_oid: row.try_get(3)?,
        collation: collation(row, 4)?,
        not_null: row.try_get(6)?,
        default,
        comment: row.try_get(11)?,
    })
}

const COLUMNS: &str = "
select a.attrelid, pg_catalog.quote_ident(a.attname), pg_catalog.format_type(a.atttypid, a.atttypmod), a.atttypid,
       case when a.attcollation <> t.typcollation then a.attcollation end,
       case when a.attcollation <> t.typcollation then a.attcollation::regcollation::text end,
       a.attnotnull, a.attidentity::text, a.attgenerated::text,
       pg_catalog.pg_get_expr(d.adbin, d.adrelid), d.oid,
       pg_catalog.quote_literal(pg_catalog.col_description(a.attrelid, a.attnum)),
       pg_catalog.format_type(s.seqtypid, null), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle
from pg_catalog.pg_attribute a
join pg_catalog.pg_type t on t.oid = a.atttypid
left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
left join pg_catalog.pg_depend i on a.attidentity <> '' and i.refclassid = 'pg_catalog.pg_class'::regclass
     and i.refobjid = a.attrelid and i.refobjsubid = a.attnum and i.deptype = 'i'
     and i.classid = 'pg_catalog.pg_class'::regclass
left join pg_catalog.pg_sequence s on s.seqrelid = i.objid
where a.attrelid = any($1::oid[]) and a.attnum > 0 and not a.attisdropped
order by a.attrelid, a.attnum";

fn sequence_options(row: &Row, at: usize) -> Result<SequenceOptions, Error> {
    Ok(SequenceOptions {
        type_sql: row.try_get(at)?,
        start: row.try_get(at + 1)?,
        increment: row.try_get(at + 2)?,
        min: row.try_get(at + 3)?,
        max: row.try_get(at + 4)?,
        cache: row.try_get(at + 5)?,
        cycle: row.try_get(at + 6)?,
    })
}

fn constraint(row: &Row, uses: &mut UsesOf) -> Result<Constraint, Error> {
    let kind = match row.try_get::<_, &str>(4)? {
        "p" => ConstraintKind::Primary,
        "u" => ConstraintKind::Unique,
        "x" => ConstraintKind::Exclusion,
        "f" => ConstraintKind::Foreign(row.try_get(5)?),
        _ => ConstraintKind::Check,
    };
    let mut all = taken(uses, "pg_constraint", row.try_get(1)?);
    // Operators and operator classes of an exclusion are written down with its index.
    if let Some(index) = row.try_get::<_, Option<u32>>(8)? {
        let of_index = taken(uses, "pg_class", index);
        all.extensions.extend(of_index.extensions);
        all.foreign.extend(of_index.foreign);
        all.types.extend(of_index.types);
    }
    if matches!(kind, ConstraintKind::Foreign(_)) {
        // It is the referenced table that needs what its operators need.
        all = Uses::default();
    }
    Ok(Constraint {
        sql: row.try_get(2)?,
        name: row.try_get(3)?,
        kind,
        definition: row.try_get(6)?,
        validated: row.try_get(7)?,
        uses: all,
    })
}

/// Of a partition only what its parents do not imply. A plain child by inheritance keeps all: here it stands alone.
const CONSTRAINTS: &str = "
select c.conrelid, c.oid, pg_catalog.quote_ident(c.conname), c.conname, c.contype::text, c.confrelid,
       pg_catalog.pg_get_constraintdef(c.oid), c.convalidated,
       case when c.contype in ('p', 'u', 'x') then c.conindid end
from pg_catalog.pg_constraint c
join pg_catalog.pg_class t on t.oid = c.conrelid
where c.conrelid = any($1::oid[]) and c.contype in ('p', 'u', 'x', 'c', 'f')
  and c.conparentid = 0 and (not t.relispartition or c.coninhcount = 0)
order by c.conrelid, c.conname collate \"C\"";

fn index(row: &Row, uses: &mut UsesOf) -> Result<Index, Error> {
    Ok(Index {
        sql: row.try_get(2)?,
        name: row.try_get(3)?,
        unique: row.try_get(4)?,
        definition: row.try_get(5)?,
        uses: taken(uses, "pg_class", row.try_get(1)?),
    })
}

/// The definition begins behind the table's name, which pg_get_indexdef always spells with its schema; the index of
/// a partitioned table is `on only` there, and must not be here.
const INDEXES: &str = "
select i.indrelid, i.indexrelid, pg_catalog.quote_ident(c.relname), c.relname, i.indisunique,
       substr(pg_catalog.pg_get_indexdef(i.indexrelid),
              length(format('CREATE %sINDEX %I ON %s%I.%I ', case when i.indisunique then 'UNIQUE ' end, c.relname,
                            case when c.relkind = 'I' then 'ONLY ' end, n.nspname, t.relname)) + 1)
from pg_catalog.pg_index i
join pg_catalog.pg_class c on c.oid = i.indexrelid
join pg_catalog.pg_class t on t.oid = i.indrelid
join pg_catalog.pg_namespace n on n.oid = t.relnamespace
where i.indrelid = any($1::oid[]) and (i.indisvalid or c.relkind = 'I') and not c.relispartition
  and not exists (select from pg_catalog.pg_constraint k
                  where k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x'))
order by i.indrelid, c.relname collate \"C\"";

async fn read_types(client: &Client, uses: &mut UsesOf) -> Result<BTreeMap<u32, Type>, Error> {
    let mut checks: HashMap<u32, Vec<Constraint>> = HashMap::new();
    for row in client.query(DOMAIN_CHECKS, &[]).await? {
        checks.entry(row.try_get(0)?).or_default().push(constraint(&row, uses)?);
    }
    let mut fields: HashMap<u32, Vec<Field>> = HashMap::new();
    for row in client.query(FIELDS, &[]).await? {
        fields.entry(row.try_get(0)?).or_default().push(field(&row, 1)?);
    }
    let mut types = BTreeMap::new();
    for row in client.query(TYPES, &[]).await? {
        let oid = row.try_get(0)?;
        let kind = match row.try_get::<_, &str>(1)? {
            "a" => TypeKind::Array { element: row.try_get(3)? },
            "m" => TypeKind::Multirange { range: row.try_get(3)? },
            "e" => TypeKind::Enum { labels: row.try_get(9)? },
            "d" => TypeKind::Domain(Domain {
                base: field(&row, 10)?,
                not_null: row.try_get(15)?,
                default: row.try_get(16)?,
                checks: checks.remove(&oid).unwrap_or_default(),
                uses: taken(uses, "pg_type", oid),
            }),
            "c" => TypeKind::Composite { table: row.try_get(4)?, fields: fields.remove(&oid).unwrap_or_default() },
            "r" => TypeKind::Range(range(&row, taken(uses, "pg_type", oid))?),
            _ => TypeKind::Base,
        };
        let read = Type { name: name(&row, 5)?, extension: row.try_get(2)?, kind, comment: row.try_get(21)? };
        types.insert(oid, read);
    }
    Ok(types)
}

fn field(row: &Row, at: usize) -> Result<Field, Error> {
    Ok(Field {
        sql: row.try_get(at)?,
        type_sql: row.try_get(at + 1)?,
        type_oid: row.try_get(at + 2)?,
        collation: collation(row, at + 3)?,
    })
}

fn range(row: &Row, uses: Uses) -> Result<Range, Error> {
    let mut functions = Vec::new();
    for (at, what) in [(19, "subtype_diff"), (20, "canonical")] {
        if let Some(function) = row.try_get::<_, Option<String>>(at)? {
            functions.push((what.to_owned(), function));
        }
    }
    Ok(Range {
        subtype: field(row, 10)?,
        operator_class: row.try_get(17)?,
        multirange: row.try_get(18)?,
        functions,
        uses,
    })
}

const DOMAIN_CHECKS: &str = "
select c.contypid, c.oid, pg_catalog.quote_ident(c.conname), c.conname, c.contype::text, c.confrelid,
       pg_catalog.pg_get_constraintdef(c.oid), c.convalidated, null::oid
from pg_catalog.pg_constraint c
where c.contypid >= 16384 and c.contype = 'c'
order by c.contypid, c.conname collate \"C\"";

const FIELDS: &str = "
select c.reltype, pg_catalog.quote_ident(a.attname), pg_catalog.format_type(a.atttypid, a.atttypmod), a.atttypid,
       case when a.attcollation <> t.typcollation then a.attcollation end,
       case when a.attcollation <> t.typcollation then a.attcollation::regcollation::text end
from pg_catalog.pg_attribute a
join pg_catalog.pg_class c on c.oid = a.attrelid
join pg_catalog.pg_type t on t.oid = a.atttypid
where c.reltype >= 16384 and a.attnum > 0 and not a.attisdropped
order by c.reltype, a.attnum";

/// Multiranges came with Postgres 14, and so did `pg_range.rngmultitypid`: the row is read as JSON for the sake of
/// older servers.
const TYPES: &str = "
select t.oid,
       case when t.typtype = 'b' and t.typelem <> 0 and t.typlen = -1 and e.typarray = t.oid then 'a'
            else t.typtype::text end,
       x.extname::text,
       case t.typtype when 'm' then (select r.rngtypid from pg_catalog.pg_range r
                                     where (to_jsonb(r) ->> 'rngmultitypid')::oid = t.oid)
                      else t.typelem end,
       case when c.relkind <> 'c' then c.oid end,
       n.nspname, t.typname, format('%I.%I', n.nspname, t.typname), pg_catalog.quote_ident(n.nspname),
       array(select pg_catalog.quote_literal(l.enumlabel) from pg_catalog.pg_enum l
             where l.enumtypid = t.oid order by l.enumsortorder),
       ''::text,
       pg_catalog.format_type(coalesce(r.rngsubtype, t.typbasetype), t.typtypmod),
       coalesce(r.rngsubtype, t.typbasetype),
       k.oid,
       case when k.oid is not null then k.oid::regcollation::text end,
       t.typnotnull, pg_catalog.pg_get_expr(t.typdefaultbin, 0),
       case when not o.opcdefault then format('%I.%I', os.nspname, o.opcname) end,
       pg_catalog.quote_ident(m.typname),
       case when r.rngsubdiff <> 0 then r.rngsubdiff::text end,
       case when r.rngcanonical <> 0 then r.rngcanonical::text end,
       pg_catalog.quote_literal(pg_catalog.obj_description(t.oid, 'pg_type'))
from pg_catalog.pg_type t
join pg_catalog.pg_namespace n on n.oid = t.typnamespace
left join pg_catalog.pg_type e on e.oid = t.typelem
left join pg_catalog.pg_class c on c.oid = t.typrelid
left join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_type'::regclass and d.objid = t.oid and d.deptype = 'e'
left join pg_catalog.pg_extension x on x.oid = d.refobjid
left join pg_catalog.pg_range r on r.rngtypid = t.oid
left join pg_catalog.pg_opclass o on o.oid = r.rngsubopc
left join pg_catalog.pg_namespace os on os.oid = o.opcnamespace
left join pg_catalog.pg_type m on m.oid = (to_jsonb(r) ->> 'rngmultitypid')::oid
left join pg_catalog.pg_type b on b.oid = coalesce(r.rngsubtype, t.typbasetype)
left join pg_catalog.pg_collation k on k.oid = coalesce(r.rngcollation, t.typcollation)
     and b.oid is not null and k.oid <> b.typcollation
where t.oid >= 16384 and n.nspname !~ '^pg_'
order by t.oid";

async fn read_sequences(client: &Client) -> Result<BTreeMap<u32, Sequence>, Error> {
    let mut sequences = BTreeMap::new();
    for row in client.query(SEQUENCES, &[]).await? {
        let owner = match (row.try_get(5)?, row.try_get(6)?) {
            (Some(table), Some(column)) => Some((table, column)),
            _ => None,
        };
        let read = Sequence { name: name(&row, 1)?, options: sequence_options(&row, 7)?, owner };
        sequences.insert(row.try_get(0)?, read);
    }
    Ok(sequences)
}

const SEQUENCES: &str = "
select c.oid, n.nspname, c.relname, format('%I.%I', n.nspname, c.relname), pg_catalog.quote_ident(n.nspname),
       a.attrelid, pg_catalog.quote_ident(a.attname),
       pg_catalog.format_type(s.seqtypid, null), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle
from pg_catalog.pg_sequence s
join pg_catalog.pg_class c on c.oid = s.seqrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
left join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid
     and d.refclassid = 'pg_catalog.pg_class'::regclass and d.deptype = 'a' and d.refobjsubid > 0
left join pg_catalog.pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
order by c.oid";

async fn read_collations(client: &Client) -> Result<BTreeMap<u32, Collation>, Error> {
    let mut collations = BTreeMap::new();
    for row in client.query(COLLATIONS, &[]).await? {
        let read = Collation {
            name: name(&row, 1)?,
            provider: row.try_get(5)?,
            locale: row.try_get(6)?,
            deterministic: row.try_get(7)?,
        };
        collations.insert(row.try_get(0)?, read);
    }
    Ok(collations)
}

/// The locale's column has had three names: collcollate, colliculocale (15), colllocale (17).
const COLLATIONS: &str = "
select c.oid, n.nspname, c.collname, format('%I.%I', n.nspname, c.collname), pg_catalog.quote_ident(n.nspname),
       case c.collprovider when 'i' then 'icu' when 'b' then 'builtin' else 'libc' end,
       pg_catalog.quote_literal(coalesce(to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale', c.collcollate)),
       c.collisdeterministic
from pg_catalog.pg_collation c
join pg_catalog.pg_namespace n on n.oid = c.collnamespace
where c.oid >= 16384 and n.nspname <> 'pg_catalog'
order by c.oid";
