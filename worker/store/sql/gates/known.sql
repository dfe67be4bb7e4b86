-- How these entries of a gate have ended. Uses gate_entries_pkey.
select e.id, e.state from {rows name text, id text} join gate_entries e on e.gate = i.name and e.id = i.id and e.ended_at is not null
