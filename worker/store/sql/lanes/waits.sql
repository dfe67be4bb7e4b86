-- What blocked tasks wait for: other tasks, and whoever is ahead in their lane. Uses tasks_pkey, task_after_pkey, tasks_lane.
select t.id, a.after_id as on_task, a.wanted, d.state, null as lane, d.started_at as since
from {rows id text} join tasks t on t.id = i.id and t.state = 'blocked' join task_after a on a.task_id = t.id join tasks d on d.id = a.after_id
where d.state not in ('done', 'dead', 'canceled', 'expired')
union all
select t.id, h.id, null, h.state, t.lane, t.created_at
from {rows:o id text} join tasks t on t.id = o.id and t.state = 'blocked' and t.lane is not null
  join tasks h on h.lane = t.lane and h.place = (select max(m.place) from tasks m where m.lane = t.lane and m.place < t.place)
