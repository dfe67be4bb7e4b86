-- Durable progress under an epoch; null leaves what was there. Uses tasks_pkey (and `|| ''` keeps PostgreSQL from walking an index of all that is running).
update tasks set checkpoint = coalesce(i.checkpoint, tasks.checkpoint), progress = coalesce(i.progress, tasks.progress),
  checkpoint_at = case when i.checkpoint is null then tasks.checkpoint_at else {now} end
from {rows id text, epoch bigint, checkpoint text, progress text}
where tasks.id = i.id and tasks.epoch = i.epoch and tasks.state || '' = 'running'
returning tasks.id
