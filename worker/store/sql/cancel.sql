-- What waits is canceled now, what runs is asked to stop. Uses tasks_pkey.
update tasks set
  cancel = case when tasks.state = 'running' then 1 else 0 end,
  ended_at = case when tasks.state = 'running' then null else {now} end,
  reason = case when tasks.state = 'running' then tasks.reason else i.reason end,
  state = case when tasks.state = 'running' then 'running' else 'canceled' end
from {rows id text, reason text}
where tasks.id = i.id and tasks.state in ('queued', 'waiting', 'parked', 'blocked', 'running')
returning tasks.id, tasks.state, tasks.links
