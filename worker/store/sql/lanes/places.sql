-- Places at the end of lanes, and their locks. A lane that is new begins with the time, so that places grow even if the row of
-- the lane was lost in between. Uses lanes_pkey.
insert into lanes (key, slots, next_place)
select i.lane, coalesce(i.slots, 1), {now} + i.number
from {rows lane text, slots bigint, number bigint}
where true
on conflict (key) do update set next_place = lanes.next_place + excluded.next_place - {now},
  slots = coalesce((select o.slots from {rows:o lane text, slots bigint} where o.lane = lanes.key), lanes.slots)
returning key
