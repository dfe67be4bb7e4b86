-- A task that did what it should never waits again. Uses tasks_pkey, task_after_pkey.
delete from task_after where task_id in (select e.id from {rows id text} join tasks e on e.id = i.id and e.state in ('done', 'dead', 'canceled', 'expired') and e.state = 'done')
