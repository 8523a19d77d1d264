-- The door of `lockstep doctor`: what this side's catalogs say. It changes nothing and makes nothing. Behind it lies
-- lockstep.facts(jsonb), whose body is the same statement that is run at the source: sql/doctor/facts.sql.
--
-- Expressions are printed by the session's settings, so these are pinned as they are on a connection of ours. Compiled,
-- so large a statement would take seconds.
create or replace function public.lockstep_examine(request jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set statement_timeout = '120s'
  set jit = off set timezone = 'UTC' set datestyle = 'ISO, YMD' set intervalstyle = 'postgres'
as $$
begin
  return lockstep.facts(request || jsonb_build_object('reader', lockstep.caller()))
    || jsonb_build_object('may_suppress', lockstep.may_suppress());
end $$;
