-- Where tasks stand. Uses tasks_pkey.
select tasks.id, tasks.state, tasks.epoch, tasks.worker from {rows id text} join tasks on tasks.id = i.id
