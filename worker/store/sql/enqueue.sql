-- New tasks; an id that is there already is left alone (enqueueing twice is once). Uses tasks_pkey.
insert into tasks (id, name, queue, priority, state, epoch, run_at, expires_at, created_at, rung_at, task)
select i.id, i.name, i.queue, i.priority, case when i.run_at > {now} then 'waiting' else 'queued' end, 0,
  i.run_at, i.expires_at, {now}, {now}, i.task
from {rows id text, name text, queue text, priority bigint, run_at bigint, expires_at bigint, task text}
where true
on conflict (id) do nothing
returning id, state
