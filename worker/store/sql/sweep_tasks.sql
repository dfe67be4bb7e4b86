-- Ended tasks older than they are kept; but not before their end is passed on, and nobody waits for them who may come back.
delete from tasks where tasks.id in (select t.id from {rows before bigint} join tasks t
  on t.ended_at < i.before and t.state in ('done', 'canceled', 'expired') and t.links <> 1
    and not exists (select 1 from task_after a where a.after_id = t.id) order by t.ended_at, t.id limit 1000)
returning tasks.id
