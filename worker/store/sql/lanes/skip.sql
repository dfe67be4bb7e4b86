-- Failed tasks that halt these lanes give up their place. Uses tasks_lane.
update tasks set last_place = tasks.place, place = null
from {rows lane text}
where tasks.lane = i.lane and tasks.place is not null and tasks.state = 'dead'
returning tasks.id
