-- Tasks of Celery's that ended in this very command without an attempt to say so: what follows for their workflows is the
-- maintenance leader's to find, at once. Uses tasks_pkey (and `|| ''` keeps PostgreSQL from walking an index of all that is dead).
insert into outbox (task_id, queue, priority, task, held_until)
select tasks.id, '', 0, substr(tasks.task, 1, 1) || '"ended":"' || tasks.state || '",' || substr(tasks.task, 2), {now}
from {rows id text} join tasks on tasks.id = i.id
where tasks.state || '' in ('dead', 'canceled', 'expired') and tasks.ended_at = {now} and tasks.task like '%"wire":"celery"%'
returning seq
