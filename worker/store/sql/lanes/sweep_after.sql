-- What ended tasks waited for; as sweep_tasks.
delete from task_after where task_id in (select t.id from {rows before bigint} join tasks t
  on t.ended_at < i.before and t.state in ('done', 'canceled', 'expired') and t.links <> 1 order by t.ended_at, t.id limit 1000)
