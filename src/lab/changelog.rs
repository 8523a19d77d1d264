//! A log in the target of every change that reaches its tables, for the proof that none came twice.

use tokio_postgres::Client;

use crate::types::TableName;

use super::compare::{quoted, quoted_table};
use super::{Doing, Result};

/// One change as the target saw it, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    pub seq: i64,
    /// The target's transaction: changes that share it came together.
    pub xid: i64,
    pub table: TableName,
    /// INSERT, UPDATE or DELETE.
    pub op: String,
    /// The key's columns, as one JSON array.
    pub key: String,
    /// The row after the change, before it for a delete, as JSON.
    pub row: String,
}

/// From now on every change to these tables is logged, whatever `session_replication_role` says. The client is a
/// superuser's. Each row costs an insert: not for measurements.
pub async fn log_changes(client: &Client, tables: &[TableName]) -> Result<()> {
    let doing = || "cannot set up the log of changes".to_owned();
    client.batch_execute(SET_UP).await.doing(doing)?;
    for table in tables {
        let rows = client.query(KEY, &[&quoted_table(table)]).await.doing(doing)?;
        let key: Vec<String> = rows.iter().map(|row| row.get::<_, String>(0)).collect();
        let arguments: Vec<_> = key.iter().map(|column| format!("'{}'", column.replace('\'', "''"))).collect();
        let (table, name) = (quoted_table(table), quoted("lab_log"));
        let sql = format!(
            "drop trigger if exists {name} on {table};
             create trigger {name} after insert or update or delete on {table}
               for each row execute function lab.log({});
             alter table {table} enable always trigger {name};",
            arguments.join(", ")
        );
        client.batch_execute(&sql).await.doing(doing)?;
    }
    Ok(())
}

/// Everything logged so far, in order.
pub async fn logged(client: &Client) -> Result<Vec<Logged>> {
    const ALL: &str = "select seq, xid, schema_name, table_name, op, key::text, row::text from lab.change order by seq";
    let rows = client.query(ALL, &[]).await.doing(|| "cannot read the log of changes".into())?;
    let one = |row: &tokio_postgres::Row| Logged {
        seq: row.get(0),
        xid: row.get(1),
        table: TableName { schema: row.get(2), name: row.get(3) },
        op: row.get(4),
        key: row.get(5),
        row: row.get(6),
    };
    Ok(rows.iter().map(one).collect())
}

/// Changes that left a row as the change before had left it: the mark of something applied twice, if the source never
/// writes the same row twice in a row. One a line.
pub async fn repeats(client: &Client) -> Result<Vec<String>> {
    const REPEATS: &str = "
        select format('%s.%s %s: %s (seq %s) repeats seq %s: %s', schema_name, table_name, key, op, seq, before, row)
        from (select *, lag(seq) over w as before, lag(row::text) over w as row_before, lag(op) over w as op_before
              from lab.change window w as (partition by schema_name, table_name, key order by seq)) c
        where row::text = row_before and key <> '[]' and op <> 'DELETE' and op_before <> 'DELETE'
        order by seq limit 100";
    let rows = client.query(REPEATS, &[]).await.doing(|| "cannot read the log of changes".into())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

const KEY: &str = "
    select a.attname::text
    from pg_index i, unnest(i.indkey::int2[]) with ordinality k(attnum, place)
    join pg_attribute a using (attnum)
    where i.indrelid = $1::text::regclass and i.indisprimary and a.attrelid = i.indrelid
    order by k.place";

const SET_UP: &str = "
    create schema if not exists lab;
    create table if not exists lab.change (
      seq bigint generated always as identity primary key,
      xid bigint not null default txid_current(),
      schema_name text not null,
      table_name text not null,
      op text not null,
      key jsonb not null,
      row jsonb not null
    );
    create or replace function lab.log() returns trigger
    language plpgsql security definer set search_path = pg_catalog as $$
    declare
      whole jsonb := case tg_op when 'DELETE' then to_jsonb(old) else to_jsonb(new) end;
      names text[] := tg_argv;
    begin
      insert into lab.change (schema_name, table_name, op, key, row)
      select tg_table_schema, tg_table_name, tg_op, coalesce(jsonb_agg(whole -> name order by place), '[]'), whole
      from unnest(names) with ordinality n(name, place);
      return null;
    end $$;";
