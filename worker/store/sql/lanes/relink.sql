-- What the tasks wait for that wait again: if it has ended, that is passed on again. Uses tasks_blocked, task_after_pkey, tasks_pkey.
update tasks set links = 1
where tasks.id in (select a.after_id from tasks b join task_after a on a.task_id = b.id where b.state = 'blocked' and b.rung_at = {now}) and {any}
returning tasks.id
