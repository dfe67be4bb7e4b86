-- What waits behind a failed task that takes the rest of its lane along. Uses tasks_pkey, tasks_lane.
update tasks set state = 'canceled', ended_at = {now}, reason = 'canceled with the rest of lane ' || f.lane || ', because ' || f.id || ' failed'
from (select e.id, e.lane, e.place from {rows id text} join tasks e on e.id = i.id and e.state in ('done', 'dead', 'canceled', 'expired') where e.state = 'dead' and e.on_failure = 'cancel-rest' and e.place is not null) as f
where tasks.lane = f.lane and tasks.place > f.place and tasks.place is not null and tasks.state = 'blocked'
returning tasks.id
