-- Entries of a gate as they are from now on. Uses gate_entries_pkey.
insert into gate_entries (gate, id, place, state, ended_at, entry)
select i.gate, i.id, i.place, i.state, case when i.ended = 1 then {now} end, i.entry
from {rows gate text, id text, place bigint, state text, ended bigint, entry text}
where true
on conflict (gate, id) do update set place = excluded.place, state = excluded.state, ended_at = excluded.ended_at, entry = excluded.entry
returning id
