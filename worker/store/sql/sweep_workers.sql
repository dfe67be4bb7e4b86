-- Workers that ended long ago and hold nothing.
delete from workers where workers.state in ('lost', 'stopped')
  and workers.lease_until < (select i.before from {rows before bigint})
  and not exists (select 1 from tasks where tasks.worker = workers.id and tasks.state = 'running')
returning workers.id
