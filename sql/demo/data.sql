-- The demo's rows: one working week of 24 agents. The same on every machine: ids come from names, times are fixed.

with crew (agent_id, name, type, status, can, skills, model, temperature, team) as (values
  ('central_orchestrator', 'Central Orchestrator', 'orchestrator', 'busy', '{plan,delegate,onboard_new_agent,escalate}', '{planning,negotiation}', 'atlas-70b', 0.2, 'core'),
  ('task_router', 'Task Router', 'orchestrator', 'busy', '{route,prioritise,balance_load}', '{scheduling,queueing}', 'atlas-8b', 0.0, 'core'),
  ('memory_keeper', 'Memory Keeper', 'memory', 'idle', '{remember,recall,summarise,forget}', '{embedding,compression}', 'atlas-8b', 0.1, 'core'),
  ('policy_warden', 'Policy Warden', 'governance', 'idle', '{review,veto,explain}', '{compliance,privacy}', 'atlas-70b', 0.0, 'core'),
  ('requirements_scout', 'Requirements Scout', 'analyst', 'busy', '{interview,clarify,specify}', '{elicitation,"domain modelling"}', 'atlas-70b', 0.4, 'product'),
  ('ux_sketcher', 'UX Sketcher', 'designer', 'idle', '{wireframe,critique,prototype}', '{typography,accessibility}', 'iris-12b', 0.7, 'product'),
  ('copy_smith', 'Copy Smith', 'writer', 'idle', '{draft,edit,translate}', '{english,deutsch,日本語}', 'lyra-13b', 0.8, 'product'),
  ('market_listener', 'Market Listener', 'analyst', 'offline', '{monitor,cluster,report}', '{sentiment,"trend detection"}', 'atlas-8b', 0.3, 'product'),
  ('backend_builder', 'Backend Builder', 'developer', 'busy', '{implement,refactor,migrate}', '{rust,sql,"api design"}', 'forge-34b', 0.1, 'engineering'),
  ('frontend_builder', 'Frontend Builder', 'developer', 'busy', '{implement,style,animate}', '{typescript,css,svelte}', 'forge-34b', 0.2, 'engineering'),
  ('data_plumber', 'Data Plumber', 'developer', 'busy', '{extract,transform,load}', '{postgres,parquet,python}', 'forge-34b', 0.1, 'engineering'),
  ('test_pilot', 'Test Pilot', 'tester', 'idle', '{explore,fuzz,reproduce}', '{"property testing",playwright}', 'forge-7b', 0.5, 'engineering'),
  ('code_reviewer', 'Code Reviewer', 'reviewer', 'busy', '{review,suggest,approve}', '{rust,security,naming}', 'forge-34b', 0.0, 'engineering'),
  ('release_captain', 'Release Captain', 'operator', 'idle', '{tag,roll_out,roll_back}', '{semver,changelogs}', 'atlas-8b', 0.0, 'engineering'),
  ('incident_medic', 'Incident Medic', 'operator', 'idle', '{triage,mitigate,write_postmortem}', '{"root cause analysis",calm}', 'atlas-70b', 0.1, 'operations'),
  ('log_reader', 'Log Reader', 'observer', 'busy', '{tail,correlate,alert}', '{regex,statistics}', 'atlas-8b', 0.0, 'operations'),
  ('cost_accountant', 'Cost Accountant', 'analyst', 'idle', '{meter,forecast,cap}', '{finops,spreadsheets}', 'atlas-8b', 0.0, 'operations'),
  ('capacity_planner', 'Capacity Planner', 'analyst', 'idle', '{model,simulate,recommend}', '{queueing,statistics}', 'atlas-70b', 0.2, 'operations'),
  ('paper_digger', 'Paper Digger', 'researcher', 'busy', '{search,read,cite}', '{arxiv,latex}', 'lyra-70b', 0.3, 'research'),
  ('fact_checker', 'Fact Checker', 'reviewer', 'idle', '{verify,trace_source,flag}', '{scepticism,citations}', 'lyra-70b', 0.0, 'research'),
  ('hypothesis_engine', 'Hypothesis Engine', 'researcher', 'idle', '{propose,rank,falsify}', '{bayes,"experiment design"}', 'lyra-70b', 0.9, 'research'),
  ('local_tutor', 'Local Tutor', 'trainer', 'busy', '{curate,fine_tune,evaluate}', '{lora,distillation}', 'seed-3b', 0.2, 'learning'),
  ('feedback_gardener', 'Feedback Gardener', 'trainer', 'idle', '{collect,label,prune}', '{rubrics,sampling}', 'seed-3b', 0.3, 'learning'),
  ('night_watch', 'Night Watch', 'observer', 'error', '{patrol,wake,report}', '{patience}', 'seed-3b', 0.0, 'operations')
)
insert into agents (id, agent_id, name, type, status, capabilities, skills, metrics, metadata, last_seen_at, created_at, updated_at)
select md5('agent/' || agent_id)::uuid, agent_id, name, type, status,
       (select jsonb_agg(jsonb_build_object('name', c, 'version', '1.' || (length(c) % 4), 'since', '2026-0' || (1 + length(c) % 9)) order by c)
          from unnest(can::text[]) c),
       skills::text[],
       jsonb_build_object('tasks_completed', 3 * n % 17, 'success_rate', round(0.81 + (n * 7 % 19) / 100.0, 2),
                          'median_latency_ms', 180 + n * 37 % 900, 'tokens', n * 48271::bigint),
       jsonb_build_object('team', team, 'model', jsonb_build_object('name', model, 'temperature', temperature, 'context', 32768),
                          'endpoint', format('http://127.0.0.1:%s/tasks', 9100 + n), 'contact', null),
       timestamptz '2026-11-06 16:30+00' - n * interval '7 minutes',
       timestamptz '2026-08-03 09:00+00' + n * interval '1 day 1 hour',
       timestamptz '2026-11-06 16:30+00' - n * interval '7 minutes'
  from (select *, row_number() over () as n from crew) crew;

insert into sessions (id, session_id, name, status, context, started_at, created_at, updated_at) values
  (md5('session/week-45')::uuid, 'week-45', 'Week 45: the billing rewrite', 'active',
   '{"goal": "Invoices that explain themselves", "budget_usd": 120.50, "timezone": "Europe/Berlin", "working_hours": [8, 18]}',
   '2026-11-02 08:00+00', '2026-11-02 07:58+00', '2026-11-02 08:00+00');

insert into agent_sessions (id, agent_id, session_id, role, state, heartbeat_at, created_at)
select md5('agent-session/' || agent_id)::uuid, id, md5('session/week-45')::uuid,
       case when agent_id = 'central_orchestrator' then 'lead' when type = 'reviewer' then 'reviewer' else 'member' end,
       jsonb_build_object('focus', metadata ->> 'team', 'open_threads', length(name) % 4),
       last_seen_at, timestamptz '2026-11-02 08:00+00' + length(agent_id) * interval '11 seconds'
  from agents where agent_id <> 'market_listener';

create temp table topic on commit drop as
select row_number() over () as n, * from (values
  ('Which invoice fields confuse customers?', 'requirements_scout', 'market_listener', '{billing,research}'),
  ('Schema for line items', 'backend_builder', 'data_plumber', '{billing,database}'),
  ('Currency rounding: half even or half up?', 'backend_builder', 'policy_warden', '{billing,money}'),
  ('Dark mode for the statement page', 'ux_sketcher', 'frontend_builder', '{frontend}'),
  ('Wording of the overdue reminder', 'copy_smith', 'policy_warden', '{copy,legal}'),
  ('Backfill of 2024 invoices', 'data_plumber', 'capacity_planner', '{database,migration}'),
  ('Flaky test: leap day pro-rata', 'test_pilot', 'backend_builder', '{testing}'),
  ('Latency spike at 09:14', 'log_reader', 'incident_medic', '{incident}'),
  ('Postmortem for the latency spike', 'incident_medic', 'central_orchestrator', '{incident,writing}'),
  ('Token budget for November', 'cost_accountant', 'central_orchestrator', '{budget}'),
  ('Onboarding a translation agent', 'central_orchestrator', 'copy_smith', '{onboarding}'),
  ('Papers on receipt understanding', 'paper_digger', 'hypothesis_engine', '{research}'),
  ('Is the 23 % claim true?', 'fact_checker', 'paper_digger', '{research,review}'),
  ('Which examples to learn from this week', 'local_tutor', 'feedback_gardener', '{learning}'),
  ('Evaluation of the fine-tuned 3b', 'local_tutor', 'fact_checker', '{learning,review}'),
  ('Release 4.2 go or no-go', 'release_captain', 'code_reviewer', '{release}'),
  ('Rollback rehearsal', 'release_captain', 'incident_medic', '{release,incident}'),
  ('Naming: statement, invoice or bill?', 'code_reviewer', 'requirements_scout', '{billing,naming}'),
  ('Queue depth on Friday afternoons', 'capacity_planner', 'task_router', '{operations}'),
  ('What should be forgotten', 'memory_keeper', 'policy_warden', '{privacy}'),
  ('Accessibility of the PDF', 'ux_sketcher', 'test_pilot', '{frontend,accessibility}'),
  ('Night Watch does not wake up', 'log_reader', 'incident_medic', '{incident}'),
  ('Experiment: shorter prompts', 'hypothesis_engine', 'cost_accountant', '{research,budget}'),
  ('Handover to the weekend crew', 'central_orchestrator', 'task_router', '{operations}')
) as t (topic, opener, partner, tags);

insert into a2a_conversations (id, conversation_id, topic, initiator_id, participants, status, tags, metadata, created_at, updated_at)
select md5('conversation/' || n)::uuid, 'conv-' || to_char(n, 'FM0000'), topic, md5('agent/' || opener)::uuid,
       array[md5('agent/' || opener)::uuid, md5('agent/' || partner)::uuid]
         || case when n % 3 = 0 then array[md5('agent/central_orchestrator')::uuid] else '{}' end,
       (array['resolved', 'open', 'waiting', 'resolved', 'archived'])[1 + n % 5]::conversation_status,
       tags::text[], jsonb_build_object('urgent', n % 8 = 0, 'language', 'en'),
       timestamptz '2026-11-02 08:05+00' + n * interval '3 hours 50 minutes',
       timestamptz '2026-11-02 08:05+00' + n * interval '3 hours 50 minutes'
  from topic;

-- Each conversation is a thread: every message answers the one before it.
insert into a2a_messages (id, message_id, conversation_id, sender_id, recipient_id, in_reply_to, kind, priority, body, payload, tokens, cost_usd, sent_at, read_at)
select md5(format('message/%s/%s', n, m))::uuid, format('msg-%s-%s', to_char(n, 'FM0000'), to_char(m, 'FM00')),
       md5('conversation/' || n)::uuid,
       md5('agent/' || case m % 2 when 1 then opener else partner end)::uuid,
       md5('agent/' || case m % 2 when 1 then partner else opener end)::uuid,
       case when m > 1 then md5(format('message/%s/%s', n, m - 1))::uuid end,
       (array['request', 'response', 'inform', 'request', 'response', 'inform'])[1 + (m - 1) % 6]::message_kind,
       1 + (n * 3 + m) % 9,
       format((array[
         'I would like your view on "%1$s". What would you do first?',
         'Looked into it. Three options come to mind; the second is the cheapest to undo.',
         'For the record: I went through last week''s notes and found %3$s related entries.',
         'Can you put numbers on option two, and say what would prove it wrong?',
         'Done: about %2$s tokens and %3$s minutes. It is wrong if the nightly check finds a single difference.',
         'Agreed. I have written it down under “%1$s” and told the others.',
         'One more thing: the edge case with an empty list is not covered yet.',
         'Covered now, with a test that failed before. — thanks!',
         'Small correction: the figure was %2$s, not %3$s. Source attached.',
         'Closing this from my side.'])[m], topic, 120 + n * m * 13, 3 + (n + m) % 28),
       jsonb_build_object('turn', m, 'confidence', round(0.5 + (n * m % 50) / 100.0, 2),
                          'attachments', case when m % 4 = 1 then jsonb_build_array(jsonb_build_object('name', format('notes-%s.md', n), 'bytes', n * 911)) else '[]' end),
       60 + (n * m * 13) % 700, ((60 + (n * m * 13) % 700) * 0.0000035)::numeric(10,6),
       timestamptz '2026-11-02 08:05+00' + n * interval '3 hours 50 minutes' + m * interval '4 minutes 9 seconds',
       case when m < 10 then timestamptz '2026-11-02 08:06+00' + n * interval '3 hours 50 minutes' + m * interval '4 minutes 9 seconds' end
  from topic, generate_series(1, 10) m
 where m <= 6 + n % 5
 order by n, m;

insert into llm_collaborations (id, collaboration_id, title, lead_agent_id, participant_ids, models, status, prompt, result, quality, total_cost, created_at, updated_at)
select md5('collaboration/' || key)::uuid, key, title, md5('agent/' || lead)::uuid,
       (select array_agg(md5('agent/' || p)::uuid order by p) from unnest(participants::text[]) p), models::text[],
       status::collaboration_status, prompt, result::jsonb, quality, cost,
       timestamptz '2026-11-02 10:00+00' + n * interval '11 hours', timestamptz '2026-11-02 13:00+00' + n * interval '11 hours'
  from (select row_number() over () as n, * from (values
    ('invoice-language', 'An invoice a child can read', 'copy_smith', '{copy_smith,ux_sketcher,policy_warden}', '{lyra-13b,iris-12b,atlas-70b}', 'completed',
     'Rewrite our invoice so that a twelve-year-old understands every line. Keep what the law demands.',
     '{"verdict": "adopted", "readability": {"before": 41.2, "after": 78.9}, "words": 312}', 0.934, 0.418250),
    ('rounding-rules', 'One rule for rounding', 'backend_builder', '{backend_builder,policy_warden,fact_checker}', '{forge-34b,atlas-70b,lyra-70b}', 'completed',
     'Find every place where we round money and propose one rule.', '{"verdict": "half even", "places": 17, "exceptions": ["cash in CHF"]}', 0.881, 1.204417),
    ('spike-hunt', 'Who caused the 09:14 spike?', 'incident_medic', '{incident_medic,log_reader,capacity_planner}', '{atlas-70b,atlas-8b}', 'completed',
     'Explain the latency spike with evidence, not with a story.', '{"cause": "an index that was dropped", "confidence": 0.97}', 0.958, 0.307000),
    ('tiny-tutor', 'Can the 3b answer billing questions?', 'local_tutor', '{local_tutor,feedback_gardener,fact_checker}', '{seed-3b,lyra-70b}', 'running',
     'Fine-tune the local model on this week''s best answers and measure it against the large one.', null, null, 0.092115),
    ('shorter-prompts', 'Half the words, same answers?', 'hypothesis_engine', '{hypothesis_engine,cost_accountant}', '{lyra-70b,atlas-8b}', 'running',
     'Shorten our twenty most used prompts by half without losing quality.', null, null, 0.551300),
    ('weekend-crew', 'Who watches on Sunday?', 'central_orchestrator', '{central_orchestrator,task_router,night_watch}', '{atlas-70b}', 'planning',
     'Plan the weekend watch with at most three agents awake.', null, null, 0)
  ) as c (key, title, lead, participants, models, status, prompt, result, quality, cost)) c;

insert into collaboration_sessions (id, collaboration_id, session_id, round, transcript, created_at)
select md5(format('collaboration-session/%s/%s', collaboration_id, round))::uuid, id, md5('session/week-45')::uuid, round,
       jsonb_build_array(jsonb_build_object('speaker', models[1], 'said', 'Here is my draft for round ' || round || '.'),
                         jsonb_build_object('speaker', models[cardinality(models)], 'said', 'Two objections, one of them serious.')),
       created_at + round * interval '35 minutes'
  from llm_collaborations, generate_series(1, 3) round
 where status <> 'planning' or round = 1;

create temp table plan on commit drop as
select row_number() over () as n, * from (values
  ('Interview five customers about invoices', 'requirements_scout', 'completed', 'high', '{research,billing}'),
  ('Draft the new invoice', 'copy_smith', 'completed', 'high', '{copy,billing}'),
  ('Sketch the statement page', 'ux_sketcher', 'completed', 'normal', '{frontend}'),
  ('Model line items', 'backend_builder', 'completed', 'high', '{database,billing}'),
  ('Migrate old invoices', 'data_plumber', 'in_progress', 'urgent', '{database,migration}'),
  ('Build the statement page', 'frontend_builder', 'in_progress', 'high', '{frontend}'),
  ('Property tests for pro-rata', 'test_pilot', 'in_progress', 'normal', '{testing}'),
  ('Review the rounding module', 'code_reviewer', 'assigned', 'high', '{review,money}'),
  ('Check every claim in the announcement', 'fact_checker', 'assigned', 'normal', '{review}'),
  ('Restore the dropped index', 'incident_medic', 'completed', 'urgent', '{incident,database}'),
  ('Alert on dropped indexes', 'log_reader', 'pending', 'high', '{operations}'),
  ('Cap the token budget per agent', 'cost_accountant', 'pending', 'normal', '{budget}'),
  ('Forecast Friday''s queue', 'capacity_planner', 'completed', 'low', '{operations}'),
  ('Collect 200 good answers', 'feedback_gardener', 'in_progress', 'normal', '{learning}'),
  ('Fine-tune the 3b', 'local_tutor', 'blocked', 'normal', '{learning}'),
  ('Summaries older than 90 days: forget', 'memory_keeper', 'pending', 'low', '{privacy}'),
  ('Release 4.2', 'release_captain', 'blocked', 'urgent', '{release}'),
  ('Wake Night Watch', 'incident_medic', 'failed', 'high', '{incident}')
) as t (title, agent, status, priority, labels);

insert into tasks (id, task_id, session_id, assigned_to, title, description, status, priority, labels, input, output, estimated_cost, due_at, completed_at, created_at, updated_at)
select md5('task/' || n)::uuid, 'task-' || to_char(n, 'FM000'), md5('session/week-45')::uuid, md5('agent/' || agent)::uuid, title,
       format('%s. Report to the orchestrator when done; ask before spending more than planned.', title),
       status::task_status, priority::task_priority, labels::text[],
       jsonb_build_object('attempt', 1, 'context', jsonb_build_array('conv-' || to_char(1 + n % 24, 'FM0000')), 'deadline', null),
       case status when 'completed' then jsonb_build_object('summary', 'Done as planned.', 'artefacts', jsonb_build_array(format('out/%s.md', n)))
                   when 'failed' then jsonb_build_object('error', 'no heartbeat for 900 s') end,
       (0.004 + n * 0.0173)::numeric(10,6), timestamptz '2026-11-06 17:00+00' + (n % 5) * interval '1 day',
       case when status = 'completed' then timestamptz '2026-11-03 12:00+00' + n * interval '97 minutes' end,
       timestamptz '2026-11-02 08:30+00' + n * interval '41 minutes', timestamptz '2026-11-03 12:00+00' + n * interval '97 minutes'
  from plan order by n;

insert into task_dependencies (task_id, depends_on, reason, created_at)
select md5('task/' || later)::uuid, md5('task/' || earlier)::uuid, reason, timestamptz '2026-11-02 09:00+00' + later * interval '1 minute'
  from (values (2, 1, 'the words come from the interviews'), (3, 1, null), (5, 4, 'needs the final model'), (6, 3, null),
               (7, 4, null), (8, 4, null), (11, 10, 'learn from the incident'), (15, 14, 'nothing to learn from yet'),
               (17, 5, null), (17, 6, null), (17, 7, null), (17, 8, 'no release without review'), (9, 2, null)) as d (later, earlier, reason);

insert into local_llm_training_batches (id, batch_id, model, status, hyperparameters, loss, started_at, finished_at, created_at, updated_at) values
  (md5('batch/1')::uuid, 'billing-001', 'seed-3b', 'evaluated', '{"epochs": 3, "learning_rate": 2e-5, "lora": {"rank": 16, "alpha": 32}}', 0.413907, '2026-11-03 01:00+00', '2026-11-03 01:48+00', '2026-11-02 20:00+00', '2026-11-03 01:48+00'),
  (md5('batch/2')::uuid, 'billing-002', 'seed-3b', 'rejected', '{"epochs": 8, "learning_rate": 1e-4, "lora": {"rank": 64, "alpha": 16}}', 1.982114, '2026-11-04 01:00+00', '2026-11-04 02:31+00', '2026-11-03 20:00+00', '2026-11-04 02:31+00'),
  (md5('batch/3')::uuid, 'billing-003', 'seed-3b', 'collecting', default, null, null, null, '2026-11-05 20:00+00', '2026-11-05 20:00+00');

insert into local_llm_learning_examples (id, batch_id, agent_id, prompt, completion, score, token_ids, context, created_at)
select md5('example/' || n)::uuid, md5('batch/' || 1 + n % 3)::uuid,
       md5('agent/' || (array['feedback_gardener', 'fact_checker', 'local_tutor'])[1 + n % 3])::uuid,
       format((array['Why is line %s of my invoice higher than last month?', 'Can I split invoice 2026-%s between two cost centres?',
                     'What does "pro rata" mean on page %s?', 'Der Betrag in Zeile %s stimmt nicht – warum?'])[1 + n % 4], n),
       format((array['Because your plan changed on day %s: the new price counts from that day on.', 'Yes. Open it, choose “Split”, and enter %s %% for the first one.',
                     'You used the service for %s of 30 days, so you pay for those only.', 'Am %s. wurde ein Rabatt beendet; die Gutschrift folgt.'])[1 + n % 4], 1 + n % 28),
       round((0.55 + (n * 17 % 45) / 100.0)::numeric, 2)::float8, array[n, n * 7 % 3001, n * 131 % 32000],
       jsonb_build_object('source', 'support', 'rated_by', jsonb_build_array('human', 'fact_checker')),
       timestamptz '2026-11-02 12:00+00' + n * interval '53 minutes'
  from generate_series(1, 60) n;

do $$
begin
  if to_regclass('agent_memories') is not null then
    insert into agent_memories (id, agent_id, content, embedding, created_at)
    select md5('memory/' || agent_id)::uuid, id, name || ' prefers short answers.',
           ('[' || (select string_agg(round(sin(i * length(agent_id))::numeric, 4)::text, ',') from generate_series(1, 8) i) || ']')::vector,
           created_at
      from agents;
  end if;
end $$;

