-- What was canceled with the rest of a lane does not come back with what it waited for. Uses tasks_pkey, tasks_lane, task_after_pkey.
delete from task_after where task_id in (
  select t.id from {rows id text} join tasks e on e.id = i.id and e.state = 'dead' and e.on_failure = 'cancel-rest' and e.place is not null
    join tasks t on t.lane = e.lane and t.place > e.place and t.place is not null and t.state = 'canceled' and t.ended_at = {now})
