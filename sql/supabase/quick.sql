-- The ordinary batch: small, no row set aside, nothing staged, every row as it should be. What it runs are as few
-- statements as possible, for each costs more than the rows: setting session_replication_role throws away every plan of
-- the session, the ones of these functions too, so each statement here is planned anew in every batch.
--
-- Whatever is not ordinary is not judged here. NULL then, nothing is done, and lockstep.apply does it all.
create or replace function lockstep.quick(body bytea) returns jsonb
language plpgsql as $$
declare
  head jsonb;
  start int;                     -- where the values begin
  part record;
  touched bigint;
  written bigint := 0;
  absent bigint := 0;            -- rows that should have been there to delete
  acting boolean := false;
begin
  -- Moves the checkpoint if the batch is the next one. First of all it marks this transaction as ours, in the WAL and for
  -- triggers; and a commit need not wait for the disk unless it is asked to (see lockstep.apply).
  update lockstep.checkpoint c
  set major = (h.head->'upto'->>0)::bigint, minor = (h.head->'upto'->>1)::bigint, updated_at = clock_timestamp()
  from (
    select x.head, x.start, pg_logical_emit_message(true, 'lockstep', x.head->>'route'),
      set_config('lockstep.applying', x.head->>'route', true),
      set_config('synchronous_commit', case when (x.head->>'durable')::boolean is not true then 'off'
        else replace(current_setting('synchronous_commit'), 'off', 'on') end, true)
    from (select convert_from(substring(body from 5 for n), 'UTF8')::jsonb as head, n + 5 as start
          from (values ((get_byte(body, 0) << 24) | (get_byte(body, 1) << 16) | (get_byte(body, 2) << 8) | get_byte(body, 3))) l (n)
          offset 0) x
    offset 0) h
  where c.route = h.head->>'route'
    and (c.major, c.minor) = ((h.head->'base'->>0)::bigint, (h.head->'base'->>1)::bigint)
    and (c.major, c.minor) < ((h.head->'upto'->>0)::bigint, (h.head->'upto'->>1)::bigint)
    and not h.head ?| array['refused', 'repair', 'copies', 'staged', 'pieces']
  returning h.head, h.start into head, start;
  if head is null then
    return null;
  end if;
  for part in
    select c.relhastriggers or c.relhasrules or c.relhassubclass or c.relkind = 'p' as acts,
      p->>'op' as op, (p->>'rows')::bigint as rows, (p->>'spans')::int[] as spans,
      substring(body from start + (p->>'at')::int for (p->>'bytes')::int) as vals,
      case
        -- The checks of lockstep.target and lockstep.missing_rights. Without a statement nothing can go on.
        when p->>'op' not in ('upsert', 'patch', 'delete') or c.relkind not in ('r', 'p')
          or p->>'schema' = 'lockstep' or p->>'schema' = 'information_schema' or p->>'schema' ~ '^pg_'
          or not (has_table_privilege(who, c.oid, 'select') and has_table_privilege(who, c.oid, 'insert')
            and has_table_privilege(who, c.oid, 'update') and has_table_privilege(who, c.oid, 'delete')
            and has_table_privilege(who, c.oid, 'truncate'))
          or exists (select from lockstep.parked x where x.route = head->>'route') then null
        when not p ? 'spans' then lockstep.statement(c.oid, p)
        else coalesce((select s.statement from lockstep.shape s where s.id = k.id and s.token = k.token),
          lockstep.shape_of(c.oid, p, k.id, k.token))
      end as statement
    from jsonb_array_elements(head->'groups') p
    -- By itself, or a handful of groups would be taken for a hundred, worth reading all of pg_class.
    left join lateral (
      select c.oid, c.relkind, c.relhastriggers, c.relhasrules, c.relhassubclass from pg_class c
      where c.relnamespace = to_regnamespace(quote_ident(p->>'schema')) and c.relname = p->>'table'
      offset 0) c on true,
    -- What a statement names comes from the table's name and columns: two tables may change places. That a server restarted
    -- may mean that it is another one.
    lateral (select md5(concat(c.oid, p->>'op', p->'schema', p->'table', p->'columns', p->'key')) as id,
      concat(pg_postmaster_start_time(), c.relkind, string_agg(a.xmin || ' ' || a.atttypid::regtype || a.attcollation::regcollation, ',')) as token
      from pg_attribute a where a.attrelid = c.oid and a.attnum > 0) k,
    coalesce(nullif(current_setting('role', true), 'none'), session_user) who
  loop
    if part.acts and not acting then
      acting := true;
      set constraints all deferred;
      if head->>'triggers' = 'suppress' then
        set local session_replication_role = replica;
      end if;
    end if;
    touched := lockstep.run_row(part.statement, part.vals, part.spans);
    if touched <> part.rows then
      if part.op <> 'delete' then
        raise sqlstate 'LS005'; -- some row is not there, or not as it should be
      end if;
      absent := absent + part.rows - touched;
    end if;
    written := written + touched;
  end loop;
  if acting then
    perform lockstep.settle();
  end if;
  return jsonb_build_object('status', 'applied', 'rows', written, 'absent', absent);
exception when others then
  return null;
end $$;

-- As lockstep.run.
create or replace function lockstep.run_row(statement text, vals bytea, spans int[]) returns bigint
language plpgsql set search_path = pg_catalog, public, extensions, pg_temp as $$
declare
  touched bigint;
begin
  execute statement using vals, spans;
  get diagnostics touched = row_count;
  return touched;
end $$;

-- The statement of a group of one row, made and kept. It does what lockstep.statement's does, without sets: the values
-- lie in $1, each an array of one; $2 says where each begins, and then how long each is.
create or replace function lockstep.shape_of(relation regclass, part jsonb, shape_id text, shape_token text) returns text
language plpgsql as $$
declare
  op constant text := part->>'op';
  width constant int := jsonb_array_length(part->'columns');
  made text;
begin
  made := (
    select case
      when count(*) <> width then null
      when op = 'upsert' then format('insert into %s as t (%s) overriding system value values (%s) on conflict (%s) do %s',
        relation, string_agg(name, ', ' order by i), string_agg(val, ', ' order by i), string_agg(name, ', ') filter (where is_key),
        coalesce('update set ' || string_agg(format('%s = excluded.%s', name, name), ', ') filter (where not is_key and not always)
            || coalesce(' where ' || string_agg(format('t.%s is not distinct from excluded.%s', name, name), ' and ')
                 filter (where always and not is_key), ''),
          'nothing'))
      else format(
        case when op = 'delete' then 'delete from %1$s t where %3$s'
             when bool_and(is_key or always) then 'select from %1$s t where %3$s'
             else 'update %1$s t set %2$s where %3$s' end,
        lockstep.alone(relation),
        string_agg(format('%s = %s', name, val), ', ') filter (where not is_key and not always),
        string_agg(format('t.%s %s %s%s', name, eq, val, coll), ' and ') filter (where is_key)
          || coalesce(' and ' || string_agg(format('t.%s is not distinct from %s', name, val), ' and ')
               filter (where always and not is_key), ''))
      end
    from (
      select w.i, quote_ident(w.name) as name, part->'key' ? w.name as is_key, a.attidentity = 'a' as always,
        case when part->'key' ? w.name then lockstep.equals(t.oid) end as eq,
        case when a.attcollation not in (0, 100) then ' collate ' || a.attcollation::regcollation else '' end as coll,
        format('(pg_catalog.convert_from(substring($1 from $2[%s] for $2[%s]), ''UTF8'')::%s)[1]%s', w.i, width + w.i,
          case when as_text then 'text[]' else format_type(t.typarray, -1) end,
          case when as_text then '::' || format_type(t.oid, -1) else '' end) as val
      from jsonb_array_elements_text(part->'columns') with ordinality w (name, i)
      join pg_attribute a on a.attrelid = relation and a.attname = w.name and a.attnum > 0 and not a.attisdropped
      join pg_type t on t.oid = a.atttypid,
      lateral (select t.typarray = 0 or (t.typcategory = 'A' and t.typtype = 'b') or t.typcategory = 'C'
                 or t.typdelim <> ',') x (as_text)) typed);
  insert into lockstep.shape (id, token, statement) values (shape_id, shape_token, made)
  on conflict (id) do update set token = excluded.token, statement = excluded.statement;
  return made;
end $$;
