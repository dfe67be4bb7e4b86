-- A worker knows these names now. Uses tasks_set_aside.
update tasks set state = 'queued', rung_at = {now}, reason = null
from {rows name text}
where tasks.name = i.name and tasks.state = 'parked'
returning tasks.id
