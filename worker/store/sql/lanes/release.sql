-- Tasks of no lane that waited for these, and now for nothing. Uses task_after_after, tasks_pkey.
update tasks set state = case when tasks.run_at > {now} then 'waiting' else 'queued' end, rung_at = {now}, released_at = {now}, reason = null
where tasks.state = 'blocked' and tasks.lane is null
  and tasks.id in (select a.task_id from {rows id text} join task_after a on a.after_id = i.id)
  and not exists (select 1 from task_after u join tasks d on d.id = u.after_id where u.task_id = tasks.id
    and (d.state not in ('done', 'dead', 'canceled', 'expired') or u.wanted = 'success' and d.state <> 'done' or u.wanted = 'failed' and d.state = 'done'))
returning tasks.id
