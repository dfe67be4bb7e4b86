-- Tasks that shall not run, whether or not they have come: what waits is canceled, what runs is asked to stop if that is
-- wanted, and for one that is not there yet stands a row that keeps its message from being claimed. Uses tasks_pkey.
insert into tasks (id, name, queue, priority, state, epoch, cancel, created_at, ended_at, rung_at, task, reason)
select i.id, i.name, i.queue, i.priority, 'canceled', 0, i.terminate, {now}, {now}, {now}, i.task, i.reason
from {rows id text, name text, queue text, priority bigint, task text, reason text, terminate bigint}
where true
on conflict (id) do update set
  cancel = case when tasks.state = 'running' then 1 else 0 end,
  ended_at = case when tasks.state = 'running' then null else excluded.ended_at end,
  reason = case when tasks.state = 'running' then tasks.reason else excluded.reason end,
  state = case when tasks.state = 'running' then 'running' else 'canceled' end
where tasks.state in ('queued', 'waiting', 'parked', 'blocked') or (tasks.state = 'running' and excluded.cancel = 1)
returning id, state, links
