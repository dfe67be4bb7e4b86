-- Something waits for these tasks from now on: whatever ends them passes it on. Those that have ended are looked at by this very
-- command. Uses tasks_pkey.
update tasks set links = 1
from {rows id text}
where tasks.id = i.id and tasks.state not in ('done', 'dead', 'canceled', 'expired')
returning tasks.id
