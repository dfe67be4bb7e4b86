-- Such lanes are forgotten, if nobody has come before they were locked. Uses lanes_pkey, tasks_lane.
delete from lanes where lanes.key in (select i.lane from {rows lane text, before bigint} where lanes.next_place < i.before) and lanes.slots = 1
  and not exists (select 1 from tasks t where t.lane = lanes.key and t.place is not null)
returning lanes.key
