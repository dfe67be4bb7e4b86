-- Every worker not known to have ended.
select workers.id, workers.pool, workers.kind, workers.host, workers.pid, workers.state, workers.slots,
  workers.started_at, workers.lease_until, workers.lock_key,
  (select count(*) from tasks where tasks.worker = workers.id and tasks.state = 'running') as running
from workers, {rows ended bigint}
where i.ended = 1 or workers.state not in ('lost', 'stopped')
order by workers.started_at
