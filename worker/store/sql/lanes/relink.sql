-- What tasks wait for that wait again. What of it has ended is to be passed on again; what has not, is when it ends: it may have been
-- a plain task when it ended the last time. Uses tasks_blocked, task_after_pkey, tasks_pkey.
update tasks set links = 1
where tasks.id in (select a.after_id from tasks b join task_after a on a.task_id = b.id where b.state = 'blocked' and b.rung_at = {now})
  and {any}
returning tasks.id
