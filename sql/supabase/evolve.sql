-- A column that was added at the source follows: the one thing that this door does to a table's shape, and only to a
-- table that the route writes. Rows that are here already get the value that the source's ALTER gave to its own (`old`,
-- an array of one); nothing else of a default travels. The table is compared afterwards: a default that is computed for
-- each row cannot be told.
create or replace function lockstep.type_named(name text) returns regtype
language plpgsql stable set search_path = pg_catalog, public, extensions, pg_temp as $$
begin
  return to_regtype(name);
end $$;

create or replace function lockstep.evolve(request jsonb) returns jsonb
language plpgsql as $$
declare
  relation regclass := lockstep.target(request->>'schema', request->>'table');
  added jsonb;
  kind regtype;
  old text;
begin
  if relation is null or not exists (select from lockstep.copy c where c.route = request->>'route'
      and c.schema_name = request->>'schema' and c.table_name = request->>'table') then
    return jsonb_build_object('refused', 'the table is not one that this route writes');
  end if;
  for added in select jsonb_array_elements(request->'columns') loop
    kind := lockstep.type_named(added->>'type');
    if kind is null then
      return jsonb_build_object('refused', format('there is no type %s', added->>'type'));
    end if;
    if added->>'old' is not null then
      execute format('select (%L::%s[])[1]::text', added->>'old', kind) into old;
      execute format('alter table %s add column if not exists %I %s default %L', relation, added->>'name', kind, old);
    else
      execute format('alter table %s add column if not exists %I %s', relation, added->>'name', kind);
    end if;
  end loop;
  update lockstep.copy c set done = false, cursor = null, rows = 0 where c.route = request->>'route'
    and c.schema_name = request->>'schema' and c.table_name = request->>'table';
  return '{}';
exception when others then
  return jsonb_build_object('refused', format('%s (SQLSTATE %s)', sqlerrm, sqlstate));
end $$;

create or replace function public.lockstep_evolve(request jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set statement_timeout = '120s'
as $$ begin return lockstep.evolve(request); end $$;
