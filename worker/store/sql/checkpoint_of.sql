-- The checkpoint of an attempt that holds its task. Uses tasks_pkey (and `|| ''` keeps PostgreSQL from walking an index of all that is running).
select tasks.checkpoint from {rows id text, epoch bigint}
join tasks on tasks.id = i.id and tasks.epoch = i.epoch and tasks.state || '' = 'running'
