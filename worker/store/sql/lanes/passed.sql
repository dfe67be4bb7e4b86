-- The end of these tasks is passed on, unless one that waits has come meanwhile and can never run: that is the next round's. Uses tasks_pkey.
update tasks set links = 2
from {rows id text}
where tasks.id = i.id and tasks.links = 1 and tasks.state in ('done', 'dead', 'canceled', 'expired') and not exists (
  select 1 from task_after a join tasks b on b.id = a.task_id and b.state = 'blocked'
  where a.after_id = tasks.id and (a.wanted = 'success' and tasks.state <> 'done' or a.wanted = 'failed' and tasks.state = 'done'))
returning tasks.id
