-- Entries of a gate that have ended, newest first. Uses gate_entries_pkey.
select e.entry, e.ended_at from {rows name text, most bigint} join gate_entries e on e.gate = i.name and e.ended_at is not null
order by e.ended_at desc, e.place desc limit (select k.most from {rows:k most bigint})
