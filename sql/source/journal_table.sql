-- What is done at the end of each statement on a table. It writes of each row that was touched what it is *now*: the
-- statements of triggers and functions inside of this one have written theirs already, and whoever writes last of a row
-- writes what it is in the end.
create or replace function {function}() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp
{pins}set row_security = off
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as {quote}
#variable_conflict use_variable
-- Columns of the table may have the names of these.
declare
  x xid8 := pg_current_xact_id();
  l pg_lsn;
  left_keys bigint;
  s record;
  restarted boolean;
  restarts text;
begin
  if tg_op = 'INSERT' then
    if not exists (select from new_rows) then return null; end if;
  elsif tg_op <> 'TRUNCATE' then
    if not exists (select from old_rows) then return null; end if;
  end if;
  l := pg_logical_emit_message(false, 'lockstep.journal', '');
  -- The table is not what this was made for: nothing of it may be named, or the statement would fail. It is noted.
  if tg_table_schema <> {schema} or tg_table_name <> {name} or {signature_now} is distinct from {signature} then
    insert into lockstep.journal (xid, lsn, n, shape, op, at) values (x, l, 0, {shape}, 'x', clock_timestamp());
  elsif tg_op = 'INSERT' then
    insert into lockstep.journal (xid, lsn, n, shape, op, key, line, at)
    select x, l, row_number() over () - 1, {shape}, case when c.line is null then 'd' else 'i' end,
      case when c.line is null then {key_of_n} end, c.line, clock_timestamp()
    from new_rows n, lateral (select (select {line} from {table} t where {t_is_n} limit 1) as line offset 0) c;
  elsif tg_op = 'UPDATE' then
    -- A key that is left may be told as changed (k), but not where something inside of this statement may have written
    -- the row under its new key already.
    insert into lockstep.journal (xid, lsn, n, shape, op, key, at)
    select x, l, row_number() over () - 1, {shape},
      case when exists (select from lockstep.journal p where p.xid = x) then 'd' else 'k' end::"char", {key_of_o},
      clock_timestamp()
    from old_rows o where not exists (select from {table} t where {t_is_o} and {key_of_t} = {key_of_o});
    get diagnostics left_keys = row_count;
    insert into lockstep.journal (xid, lsn, n, shape, op, key, line, at)
    select x, l, left_keys + row_number() over () - 1, {shape}, case when c.line is null then 'd' else 'u' end,
      case when c.line is null then {key_of_n} end, c.line, clock_timestamp()
    from new_rows n, lateral (select (select {line} from {table} t where {t_is_n} limit 1) as line offset 0) c;
  elsif tg_op = 'DELETE' then
    insert into lockstep.journal (xid, lsn, n, shape, op, key, line, at)
    select x, l, row_number() over () - 1, {shape}, case when c.line is null then 'd' else 'u' end,
      case when c.line is null then {key_of_o} end, c.line, clock_timestamp()
    from old_rows o, lateral (select (select {line} from {table} t where {t_is_o} limit 1) as line offset 0) c;
  else
    -- No trigger is told of `restart identity`: identities that have given no number since say it.
    for s in select d.objid::regclass::text as name from pg_depend d join pg_class c on c.oid = d.objid and c.relkind = 'S'
      where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = tg_relid
        and d.refobjsubid > 0 and d.deptype in ('a', 'i') and has_sequence_privilege(d.objid, 'select') loop
      execute format('select not is_called from %s', s.name) into restarted;
      restarts := case when restarted and restarts is distinct from 'go on' then 'restart' else 'go on' end;
    end loop;
    insert into lockstep.journal (xid, lsn, n, shape, op, line, at)
    values (x, l, 0, {shape}, 't', restarts, clock_timestamp());
  end if;
  -- A transaction that has rung cannot be prepared: where there may be such, the reader looks more often instead.
  if current_setting('max_prepared_transactions') = '0' then
    perform pg_notify('lockstep_journal', '');
  end if;
  return null;
end
{quote};
revoke all on function {function}() from public;
