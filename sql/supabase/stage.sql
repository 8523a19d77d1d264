-- Requests that are too large to be sent as one are laid down in pieces; a last call, which is small, applies them.

-- Lays down one piece. Sent again, it is the same piece. Nothing waits for the disk: what is lost is sent again.
create or replace function lockstep.stage(body bytea) returns jsonb
language plpgsql as $$
declare
  header jsonb := lockstep.header_of(body);
begin
  set local synchronous_commit = off;
  insert into lockstep.stage as s (route, run, part, number, piece)
  values (header->>'route', header->>'run', (header->>'part')::int, (header->>'number')::int,
    substring(body from lockstep.header_end(body) + 1))
  on conflict (route, run, part, number) do update set piece = excluded.piece;
  return '{}';
end $$;

-- A part, put together; NULL when a piece of it is not there, or is one that was cut to another size and came late.
create or replace function lockstep.laid_down(route_name text, run_name text, which int, pieces int) returns bytea
language plpgsql stable as $$
declare
  body bytea := (select case when count(*) = pieces then string_agg(s.piece, null::bytea order by s.number) end
                 from lockstep.stage s
                 where s.route = route_name and s.run = run_name and s.part = which and s.number < pieces);
begin
  return case when octet_length(body) = lockstep.header_end(body) + (
    select coalesce(sum(l::int), 0) from jsonb_array_elements(lockstep.header_of(body)->'groups') g,
      jsonb_array_elements_text(coalesce(g->'lengths', '[]')) l) then body end;
end $$;

create or replace function public.lockstep_stage(bytea) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set statement_timeout = '60s'
as $$ begin return lockstep.stage($1); end $$;
