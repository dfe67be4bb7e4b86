-- An attempt's outcome, under its epoch; one that would run again is canceled if somebody asked for that, and a dead letter if it is to run
-- once: nobody knows what it did. No row
-- back: the lease is lost and nothing was written. Uses tasks_pkey (and `|| ''` keeps PostgreSQL from walking an index of all that is running).
update tasks set worker = null, queue = coalesce(i.queue, tasks.queue),
  state = case when tasks.cancel = 1 and i.state in ('queued', 'waiting') then 'canceled' when tasks.once = 1 and i.state in ('queued', 'waiting') then 'dead' else i.state end,
  run_at = case when i.state = 'waiting' then {now} + i.delay end,
  failures = case when i.state = 'waiting' and i.failed = 0 then 0 else tasks.failures + i.failed end,
  interruptions = tasks.interruptions + case when tasks.once = 1 and i.state in ('queued', 'waiting') then 1 else i.interrupted end,
  ended_at = case when i.state in ('queued', 'waiting') and tasks.cancel = 0 and tasks.once = 0 then null else {now} end,
  rung_at = case when i.state = 'queued' then {now} else tasks.rung_at end,
  checkpoint = case when i.state = 'done' then null else coalesce(i.checkpoint, tasks.checkpoint) end,
  checkpoint_at = case when i.checkpoint is not null then {now} else tasks.checkpoint_at end,
  result = i.result, reason = case when tasks.once = 1 and i.state in ('queued', 'waiting') then coalesce(i.reason || '; ', '') || 'given up while it ran, and never run again by itself' else i.reason end, task = coalesce(i.task, tasks.task), cancel = 0
from {rows id text, epoch bigint, state text, queue text, delay bigint, failed bigint, interrupted bigint, checkpoint text, result text, reason text, task text}
where tasks.id = i.id and tasks.epoch = i.epoch and tasks.state || '' = 'running'
returning tasks.id, tasks.state, tasks.links
