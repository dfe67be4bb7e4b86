-- Deliveries that may not run now get a row that says so, and their message can go: waiting for their
-- time, parked until a worker knows their name, queued again by a drain, expired. Uses tasks_pkey.
insert into tasks (id, name, queue, priority, state, epoch, run_at, expires_at, created_at, ended_at, rung_at, task, reason)
select i.id, i.name, i.queue, i.priority, i.state, 0, i.run_at, i.expires_at, {now},
  case when i.state = 'expired' then {now} end, {now}, i.task, i.reason
from {rows id text, name text, queue text, priority bigint, state text, run_at bigint, expires_at bigint, task text, reason text}
where true
on conflict (id) do update set state = excluded.state, reason = excluded.reason, rung_at = excluded.rung_at,
  ended_at = excluded.ended_at, run_at = coalesce(excluded.run_at, tasks.run_at)
where tasks.state = 'queued'
returning id, state, links
