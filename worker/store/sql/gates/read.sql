-- A gate and then its entries that have not ended, in order: by one statement, so as they were at one moment. Uses gates_pkey,
-- gate_entries_live.
select g.revision, g.dirty, -1 as place, g.state as text from {rows name text} join gates g on g.name = i.name
union all
select 0, 0, e.place, e.entry from {rows:k name text} join gate_entries e on e.gate = k.name and e.ended_at is null
order by place
