-- What is in a lane, in order. Uses tasks_lane.
select t.id, t.name, t.state, t.place, t.epoch, t.worker, t.created_at, t.released_at, t.started_at, t.run_at, t.failures, t.progress, t.reason
from {rows lane text, most bigint} join tasks t on t.lane = i.lane and t.place is not null
order by t.place limit (select k.most from {rows:k most bigint})
