-- What tasks wait for that wait again, and has ended: that is to be passed on again. Uses tasks_blocked, task_after_pkey, tasks_pkey.
update tasks set links = 1
where tasks.id in (select a.after_id from tasks b join task_after a on a.task_id = b.id where b.state = 'blocked' and b.rung_at = {now})
  and tasks.state in ('done', 'dead', 'canceled', 'expired') and {any}
returning tasks.id
