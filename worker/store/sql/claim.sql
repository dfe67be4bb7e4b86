-- Deliveries become attempts: the compare-and-set that raises the epoch. A task seen for the first
-- time gets its row here; one that is over begins anew if its name says so. No row back: somebody else holds it, it
-- waits, or it has ended. One that was revoked before it came ('(unknown)') does not begin anew with the message that
-- it was revoked for, and one of a lane not at all: it has no place any more. One that waits in another queue is announced
-- there: a late message does not take it back to the queue that it was moved from.
-- A worker that was given up for dead claims nothing until it has joined again. Uses tasks_pkey, workers_pkey.
insert into tasks (id, name, queue, priority, state, epoch, worker, expires_at, created_at, started_at, task, revision)
select i.id, i.name, i.queue, i.priority, 'running', 1, i.worker, i.expires_at, {now}, {now}, i.task, i.revision
from {rows id text, name text, queue text, priority bigint, expires_at bigint, worker text, task text, again bigint, revision text}
where exists (select 1 from workers w where w.id = i.worker and w.state not in ('lost', 'stopped'))
on conflict (id) do update set state = 'running', epoch = tasks.epoch + 1, worker = excluded.worker,
  started_at = excluded.started_at, revision = excluded.revision, rings = 0, links = case when tasks.links = 2 then 1 else tasks.links end, queue = excluded.queue,
  task = case when tasks.state = 'queued' then tasks.task else excluded.task end,
  failures = case when tasks.state = 'queued' then tasks.failures else 0 end,
  crashes = case when tasks.state = 'queued' then tasks.crashes else 0 end,
  ended_at = null, result = null, reason = case when tasks.state = 'queued' then tasks.reason end
where tasks.state = 'queued' and tasks.queue = excluded.queue or tasks.state in ('done', 'dead', 'canceled', 'expired')
  and tasks.name <> '(unknown)' and tasks.lane is null and (select o.again from {rows:o id text, again bigint} where o.id = tasks.id) = 1
returning id, epoch, failures, crashes, interruptions, checkpoint, place
