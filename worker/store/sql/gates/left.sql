-- Gates that somebody has to look at, or all in which something is. Uses gate_entries_live.
select g.name from gates g, {rows every bigint} where g.dirty = 1 or i.every = 1 and exists (select 1 from gate_entries e where e.gate = g.name and e.ended_at is null)
order by g.name
