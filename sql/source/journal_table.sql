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
  depth int := pg_trigger_depth();
  left_keys bigint;
  identity record;
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
    insert into lockstep.journal (xid, lsn, n, shape, op, depth, line, at)
    values (x, l, 0, {shape}, 'x', depth, tg_relid::text, clock_timestamp());
  elsif tg_op = 'INSERT' then
    insert into lockstep.journal (xid, lsn, n, shape, op, depth, key, line, at)
    select x, l, row_number() over () - 1, {shape}, case when c.line is null then 'd' else 'i' end, depth,
      case when c.line is null then {key_of_n} end, c.line, clock_timestamp()
    from new_rows n, lateral (select (select {line} from {table} t where {t_is_n} limit 1) as line offset 0) c;
  elsif tg_op = 'UPDATE' then
    if (select sum(hashtextextended({key_of_o}, 0)) from old_rows o)
       = (select sum(hashtextextended({key_of_n}, 0)) from new_rows n) then
      -- The same keys before and after, as nearly always; this costs less than to look for each of them.
      insert into lockstep.journal (xid, lsn, n, shape, op, depth, key, line, at)
      select x, l, row_number() over () - 1, {shape}, case when c.line is null then 'd' else 'u' end, depth,
        case when c.line is null then {key_of_n} end, c.line, clock_timestamp()
      from new_rows n, lateral (select (select {line} from {table} t where {t_is_n} limit 1) as line offset 0) c;
    elsif (select count(*) from old_rows) = (select count(*) from new_rows) and not exists (
        select from lockstep.journal p join lockstep.journal_shape s on s.id = p.shape
        where p.xid = x and p.depth > depth and s.relation = {relation}) then
      -- The one table has its rows in the order of the other. A full join is never one of loops, however few rows the
      -- plan was made for.
      insert into lockstep.journal (xid, lsn, n, shape, op, depth, key, line, at)
      select x, l, b.r - 1, {shape},
        case when c.line is null then 'd' when {key_of_b} <> {key_of_a} then 'k' else 'u' end::"char", depth,
        case when c.line is null or {key_of_b} <> {key_of_a} then {key_of_b} end, c.line, clock_timestamp()
      from (select row_number() over () as r, {old_keys} from old_rows o) b
      full join (select row_number() over () as r, {new_keys} from new_rows n) a on a.r = b.r,
      lateral (select (select {line} from {table} t where {t_is_a} limit 1) as line offset 0) c;
    else
      -- Something inside of this statement has written of this table, and perhaps of a row under its new key already.
      insert into lockstep.journal (xid, lsn, n, shape, op, depth, key, at)
      select x, l, row_number() over () - 1, {shape}, 'd', depth, {key_of_o}, clock_timestamp()
      from old_rows o where not exists (select from {table} t where {t_is_o} and {key_of_t} = {key_of_o});
      get diagnostics left_keys = row_count;
      insert into lockstep.journal (xid, lsn, n, shape, op, depth, key, line, at)
      select x, l, left_keys + row_number() over () - 1, {shape}, case when c.line is null then 'd' else 'u' end, depth,
        case when c.line is null then {key_of_n} end, c.line, clock_timestamp()
      from new_rows n, lateral (select (select {line} from {table} t where {t_is_n} limit 1) as line offset 0) c;
    end if;
  elsif tg_op = 'DELETE' then
    insert into lockstep.journal (xid, lsn, n, shape, op, depth, key, line, at)
    select x, l, row_number() over () - 1, {shape}, case when c.line is null then 'd' else 'u' end, depth,
      case when c.line is null then {key_of_o} end, c.line, clock_timestamp()
    from old_rows o, lateral (select (select {line} from {table} t where {t_is_o} limit 1) as line offset 0) c;
  elsif tg_relid = {relation} then -- an emptied part is not an emptied root
    -- No trigger is told of `restart identity`: identities that have given no number since say it.
    for identity in
      select d.objid as oid from pg_depend d join pg_class c on c.oid = d.objid where c.relkind = 'S'
        and d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = tg_relid
        and d.refobjsubid > 0 and d.deptype in ('a', 'i')
    loop
      continue when not has_sequence_privilege(identity.oid, 'select');
      execute format('select not is_called from %s', identity.oid::regclass) into restarted;
      restarts := case when restarted and restarts is distinct from 'go on' then 'restart' else 'go on' end;
    end loop;
    insert into lockstep.journal (xid, lsn, n, shape, op, depth, line, at)
    values (x, l, 0, {shape}, 't', depth, restarts, clock_timestamp());
  end if;
  -- A transaction that has rung cannot be prepared: where there may be such, the reader looks more often instead.
  if current_setting('max_prepared_transactions') = '0' then
    perform pg_notify('lockstep_journal', '');
  end if;
  return null;
end
{quote};
revoke all on function {function}() from public;
