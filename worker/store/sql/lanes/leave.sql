-- Ended tasks give up their place, but for a failed one that halts its lane. Uses tasks_linked.
update tasks set place = null
where tasks.links = 1 and tasks.state in ('done', 'dead', 'canceled', 'expired') and tasks.place is not null and not (tasks.state = 'dead' and tasks.on_failure = 'halt') and {any}
returning tasks.id
