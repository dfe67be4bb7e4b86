-- An outbox row for each of these tasks that may run; held for whoever commits it. Uses tasks_pkey (and `|| ''` keeps PostgreSQL from walking an index of all that is queued).
insert into outbox (task_id, queue, priority, task, held_until)
select tasks.id, tasks.queue, tasks.priority, tasks.task, {now} + 2000
from {rows id text} join tasks on tasks.id = i.id and tasks.state || '' = 'queued'
returning seq, queue, priority, task
