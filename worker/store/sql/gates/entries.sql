-- Its entries that have not ended, in order. Uses gate_entries_live.
select e.place, e.entry from {rows name text} join gate_entries e on e.gate = i.name and e.ended_at is null order by e.place
