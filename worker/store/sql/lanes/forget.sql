-- A task that did what it should never waits again. Uses tasks_linked, task_after_pkey.
delete from task_after where task_id in (select e.id from tasks e where e.links = 1 and e.state in ('done', 'dead', 'canceled', 'expired') and e.state = 'done') and {any}
