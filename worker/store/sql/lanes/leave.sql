-- Ended tasks give up their place, but for a failed one that halts its lane. Uses tasks_pkey.
update tasks set last_place = tasks.place, place = null
from {rows id text}
where tasks.id = i.id and tasks.state in ('done', 'dead', 'canceled', 'expired') and tasks.place is not null and not (tasks.state = 'dead' and tasks.on_failure = 'halt')
returning tasks.id
