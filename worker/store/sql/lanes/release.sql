-- Tasks of no lane whose last wait is over. Uses tasks_linked, task_after_after.
update tasks set state = case when tasks.run_at > {now} then 'waiting' else 'queued' end, rung_at = {now}, released_at = {now}, reason = null
where tasks.state = 'blocked' and tasks.lane is null
  and tasks.id in (select a.task_id from tasks e join task_after a on a.after_id = e.id where e.links = 1 and e.state in ('done', 'dead', 'canceled', 'expired'))
  and not exists (select 1 from task_after u join tasks d on d.id = u.after_id where u.task_id = tasks.id and d.state not in ('done', 'dead', 'canceled', 'expired')) and {any}
returning tasks.id
