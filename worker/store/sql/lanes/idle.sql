-- Lanes of which nothing is left to know: nobody is in them, they are as wide as a new one, and the places that they have given are
-- older than a new one's first. Uses tasks_lane; walks lanes.
select l.key as id from lanes l join {rows before bigint} on l.next_place < i.before
where l.slots = 1 and not exists (select 1 from tasks t where t.lane = l.key and t.place is not null) order by l.key limit 500
