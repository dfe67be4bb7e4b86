-- Tasks that were canceled because one of these failed wait again, now that it runs again; and those that waited for them. One of
-- them that still cannot run is canceled again by the statement that finds those. All that do not run at once go to the end of their
-- lanes, and so does whoever still waits for them: it would stand ahead of what it waits for, and both would wait for ever. Uses task_after_after, tasks_pkey.
with recursive back (id, moves) as (
  select t.id, case when t.lane is not null and t.place is null or exists (select 1 from task_after w where w.task_id = t.id) then 1 else 0 end from {rows id text}
    join tasks t on t.id = i.id and t.state = 'queued' and t.rung_at = {now}
  union
  select w.id, 1 from back b
    join task_after a on a.after_id = b.id
    join tasks w on w.id = a.task_id and (w.state = 'canceled' and a.wanted = 'success'
      or b.moves = 1 and (w.state = 'blocked' or w.state = 'queued' and w.rung_at = {now}))
)
update tasks set state = 'blocked', ended_at = null, reason = null, rung_at = {now}, links = 1,
  last_place = coalesce(tasks.place, tasks.last_place), place = null
where tasks.id in (select b.id from back b) and tasks.state in ('canceled', 'blocked')
returning tasks.id
