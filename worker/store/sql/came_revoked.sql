-- The message has come of a task that was revoked before: its row, which knew no more than its id, is the task's from now
-- on, and those who wait for it can be told. Uses tasks_pkey.
update tasks set name = i.name, queue = i.queue, priority = i.priority, expires_at = i.expires_at, task = i.task, ended_at = {now}
from {rows id text, name text, queue text, priority bigint, expires_at bigint, task text, unknown text}
where tasks.id = i.id and tasks.state = 'canceled' and tasks.name = i.unknown
returning tasks.id
