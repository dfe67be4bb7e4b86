-- A task that is canceled by hand does not come back with what it waited for. Uses task_after_pkey, tasks_pkey.
delete from task_after where task_id in (select t.id from {rows id text} join tasks t on t.id = i.id and t.state = 'canceled' and t.ended_at = {now})
