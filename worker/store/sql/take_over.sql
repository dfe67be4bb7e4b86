-- Claims tasks of workers that are dead, each only if it is still that worker's under that epoch, and may run twice. One that somebody
-- wants canceled is left to rescue, which cancels it; and so is all if the claiming worker was itself given up for dead. Uses workers_pkey, tasks_pkey (and `|| ''` keeps PostgreSQL from walking an index of all that is running).
update tasks set epoch = tasks.epoch + 1, worker = i.worker, crashes = tasks.crashes + 1, started_at = {now}, revision = i.revision
from {rows id text, epoch bigint, dead text, worker text, crash_limit bigint, revision text}
where tasks.id = i.id and tasks.epoch = i.epoch and tasks.worker = i.dead and tasks.state || '' = 'running'
  and tasks.cancel = 0 and tasks.crashes + 1 < i.crash_limit and tasks.once = 0
  and exists (select 1 from workers w where w.id = i.worker and w.state not in ('lost', 'stopped'))
returning tasks.id, tasks.epoch, tasks.failures, tasks.crashes, tasks.interruptions, tasks.checkpoint, tasks.place
