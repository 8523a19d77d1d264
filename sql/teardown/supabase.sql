-- Takes Lockstep out of Supabase. The replicated tables stay as they are.
begin;
set local client_min_messages = warning;
drop function if exists public.lockstep_hello(jsonb), public.lockstep_apply(bytea), public.lockstep_parked(jsonb),
  public.lockstep_evolve(jsonb), public.lockstep_stage(bytea), public.lockstep_examine(jsonb),
  public.lockstep_digest(jsonb);
drop schema if exists lockstep cascade;
notify pgrst, 'reload schema';
commit;
