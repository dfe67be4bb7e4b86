-- What follows a test job that is finished now in this generation; nothing while a part is missing. Uses testjobs_pkey, tasks_pkey.
insert into tasks (id, name, queue, priority, state, epoch, created_at, rung_at, task)
select i.id, i.name, i.queue, i.priority, 'queued', 0, {now}, {now}, i.task
from {rows testjob bigint, generation bigint, id text, name text, queue text, priority bigint, task text}
join testjobs j on j.id = i.testjob and j.visible = i.generation and j.state in ('complete', 'incomplete', 'canceled')
where true
on conflict (id) do nothing
returning id
