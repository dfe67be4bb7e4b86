-- Tasks that are about to run again by hand: what they waited for is no matter any more if they were let go once, or if it has
-- ended; but for what runs again with them and is to succeed. Uses tasks_pkey, task_after_pkey.
delete from task_after where task_id in (select t.id from {rows id text} join tasks t on t.id = i.id and t.state in ('dead', 'canceled', 'expired', 'parked'))
  and (exists (select 1 from tasks r where r.id = task_after.task_id and r.released_at is not null)
    or exists (select 1 from tasks d where d.id = task_after.after_id and d.state in ('done', 'dead', 'canceled', 'expired'))
      and not (task_after.wanted = 'success' and task_after.after_id in (select k.id from {rows:k id text})))
