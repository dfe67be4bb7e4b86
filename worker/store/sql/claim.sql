-- Deliveries become attempts: the compare-and-set that raises the epoch. A task seen for the first
-- time gets its row here. No row back: somebody else holds it, it waits, or it has ended. Uses tasks_pkey.
insert into tasks (id, name, queue, priority, state, epoch, worker, expires_at, created_at, started_at, task)
select i.id, i.name, i.queue, i.priority, 'running', 1, i.worker, i.expires_at, {now}, {now}, i.task
from {rows id text, name text, queue text, priority bigint, expires_at bigint, worker text, task text}
where true
on conflict (id) do update set state = 'running', epoch = tasks.epoch + 1, worker = excluded.worker,
  started_at = excluded.started_at, rings = 0, queue = excluded.queue
where tasks.state = 'queued'
returning id, epoch, failures, crashes, interruptions, checkpoint
