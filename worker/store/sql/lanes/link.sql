-- Something waits for these tasks from now on: whatever ends them passes it on. Those that have ended need not, unless they run again:
-- then they count as passed on. They are written too, so that nobody runs them again or sweeps them while this command looks at
-- how they ended. Uses tasks_pkey.
update tasks set links = case when tasks.state not in ('done', 'dead', 'canceled', 'expired') or tasks.links = 1 then 1 else 2 end
from {rows id text}
where tasks.id = i.id
returning tasks.id
