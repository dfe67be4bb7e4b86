-- Tasks that were canceled because one of these failed wait again, now that it runs again; and those that waited for them. One of
-- them that still cannot run is canceled again by the statement that finds those. Uses task_after_after.
with recursive back (id) as (
  select a.task_id from {rows id text} join tasks t on t.id = i.id and t.state = 'queued' and t.rung_at = {now}
    join task_after a on a.after_id = i.id and a.wanted = 'success'
  union
  select a.task_id from back b join tasks t on t.id = b.id and t.state = 'canceled' join task_after a on a.after_id = b.id and a.wanted = 'success'
)
update tasks set state = 'blocked', ended_at = null, reason = null, rung_at = {now}, links = 1
where tasks.id in (select b.id from back b) and tasks.state = 'canceled'
returning tasks.id
