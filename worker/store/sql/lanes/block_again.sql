-- Tasks that run again by hand wait again: in a lane for their turn, which may come at once, and for what is still to come. Uses tasks_pkey.
update tasks set state = 'blocked', links = 1
where tasks.id in (select i.id from {rows id text}) and tasks.state = 'queued' and tasks.rung_at = {now}
  and (tasks.lane is not null or exists (select 1 from task_after a where a.task_id = tasks.id))
returning tasks.id
