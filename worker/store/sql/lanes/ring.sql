-- An outbox row for each task that this command has let go. Uses tasks_queued.
insert into outbox (task_id, queue, priority, task, held_until)
select tasks.id, tasks.queue, tasks.priority, tasks.task, {now} + 2000
from tasks where tasks.state = 'queued' and tasks.rung_at = {now} and tasks.released_at = {now} and {any}
returning seq, queue, priority, task
