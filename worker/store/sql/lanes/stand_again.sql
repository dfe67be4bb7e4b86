-- Tasks that run again by hand: what they waited for and has ended is no matter any more, what has not is. Uses tasks_pkey, task_after_pkey.
delete from task_after where task_id in (select t.id from {rows id text} join tasks t on t.id = i.id and t.state = 'queued' and t.rung_at = {now})
  and after_id in (select d.id from tasks d where d.id = task_after.after_id and d.state in ('done', 'dead', 'canceled', 'expired'))
