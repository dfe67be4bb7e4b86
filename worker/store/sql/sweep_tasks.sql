-- Ended tasks older than they are kept.
delete from tasks where tasks.id in (select t.id from {rows before bigint} join tasks t
  on t.ended_at < i.before and t.state in ('done', 'canceled', 'expired') order by t.ended_at, t.id limit 1000)
returning tasks.id
