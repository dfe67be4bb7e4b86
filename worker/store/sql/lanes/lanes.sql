-- The lanes in which something is, with how many wait and run. Uses tasks_lane.
select l.key, l.slots, sum(case when t.state = 'blocked' then 1 else 0 end) as waiting, sum(case when t.state not in ('blocked', 'dead') then 1 else 0 end) as holding,
  min(case when t.state = 'dead' then t.id end) as halted_by, min(case when t.state = 'dead' then t.ended_at end) as halted_at,
  min(case when t.state = 'blocked' then t.created_at end) as waiting_since
from {rows lane text, most bigint}
join tasks t on t.place is not null and (i.lane is null or t.lane = i.lane) join lanes l on l.key = t.lane
group by l.key, l.slots order by l.key limit (select k.most from {rows:k most bigint})
