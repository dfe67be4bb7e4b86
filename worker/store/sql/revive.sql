-- A dead letter (or a canceled or expired task) runs again by hand, with its counts at zero and its checkpoint kept. Uses tasks_pkey.
update tasks set state = 'queued', failures = 0, crashes = 0, rung_at = {now}, ended_at = null, reason = null, expires_at = null, task = i.task,
  links = case when tasks.links = 0 then 0 else 1 end
from {rows id text, task text}
where tasks.id = i.id and tasks.state in ('dead', 'canceled', 'expired', 'parked')
returning tasks.id
