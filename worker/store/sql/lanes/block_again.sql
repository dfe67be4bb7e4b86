-- Tasks that run again by hand wait again, if what they waited for is still to come or they gave up their place in a lane. Uses tasks_pkey.
update tasks set state = 'blocked'
where tasks.id in (select i.id from {rows id text}) and tasks.state = 'queued' and tasks.rung_at = {now}
  and (tasks.lane is not null and tasks.place is null or exists (select 1 from task_after a where a.task_id = tasks.id))
returning tasks.id
