-- Messages for others: an outbox row each, and no row of a task, since nobody here will run it.
insert into outbox (task_id, queue, priority, task, held_until)
select i.id, i.queue, i.priority, i.task, {now} + 2000
from {rows id text, queue text, priority bigint, task text}
where true
returning seq, queue, priority, task
