-- A dead letter (or a canceled or expired task) runs again by hand, with its counts at zero and its checkpoint kept. Only who halts
-- a lane, or was set aside there, has its place still; others have left, or are about to. What is to run once does not, unless nobody could run it yet: whoever
-- enqueued it goes on without it. Uses tasks_pkey.
update tasks set state = 'queued', failures = 0, crashes = 0, rung_at = {now}, ended_at = null, reason = null, run_at = null, expires_at = null, task = i.task,
  last_place = coalesce(tasks.place, tasks.last_place),
  place = case when tasks.state = 'parked' or tasks.state = 'dead' and tasks.on_failure = 'halt' then tasks.place end,
  links = case when tasks.links = 0 then 0 else 1 end
from {rows id text, task text}
where tasks.id = i.id and tasks.state in ('dead', 'canceled', 'expired', 'parked') and (tasks.once = 0 or tasks.state = 'parked')
returning tasks.id
