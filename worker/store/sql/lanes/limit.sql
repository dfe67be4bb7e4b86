-- How many of a lane run at once. Uses lanes_pkey.
update lanes set slots = i.slots
from {rows lane text, slots bigint}
where lanes.key = i.lane
returning lanes.key
