-- Entries that ended before then. Uses gate_entries_ended.
delete from gate_entries where (gate, id) in (select e.gate, e.id from {rows before bigint} join gate_entries e on e.ended_at < i.before limit 1000)
returning id
