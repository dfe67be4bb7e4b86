-- Something waits for these tasks from now on: whatever ends them passes it on. Locks their rows, so that they end before or after. Uses tasks_pkey.
update tasks set links = 1
from {rows id text}
where tasks.id = i.id
returning tasks.id
