-- Tasks, newest last. Uses tasks_pkey or a partial index of its state.
select t.id, t.name, t.queue, t.priority, t.state, t.epoch, t.worker, t.failures, t.crashes, t.interruptions, t.run_at, t.expires_at,
  t.created_at, t.started_at, t.ended_at, t.task, t.checkpoint_at, t.progress, t.result, t.reason, t.lane, t.revision
from {rows id text, state text, most bigint}
join tasks t on (i.id is null or t.id = i.id) and (i.state is null or t.state = i.state)
order by t.created_at, t.id limit (select k.most from {rows:k most bigint})
