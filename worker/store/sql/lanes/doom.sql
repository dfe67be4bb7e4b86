-- Tasks that can never run, because one of these that they wait for ended otherwise; and those that wait for them. Uses tasks_pkey,
-- task_after_after.
with recursive doomed (id, because, ended) as (
  select a.task_id, e.id, e.state from {rows id text} join tasks e on e.id = i.id and e.state in ('done', 'dead', 'canceled', 'expired')
    join task_after a on a.after_id = e.id
  where a.wanted = 'success' and e.state <> 'done' or a.wanted = 'failed' and e.state = 'done'
  union
  select a.task_id, d.id, 'canceled' from doomed d join tasks b on b.id = d.id and b.state = 'blocked' join task_after a on a.after_id = d.id
  where a.wanted = 'success'
)
update tasks set state = 'canceled', ended_at = {now}, reason = 'it was to run after ' || f.because || ', which is ' || f.ended
from (select d.id, min(d.because) as because, min(d.ended) as ended from doomed d group by d.id) as f
where tasks.id = f.id and tasks.state = 'blocked'
returning tasks.id
