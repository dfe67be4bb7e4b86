-- A worker says that it lives, or that it lives again after its lease ran out. Uses workers_pkey.
insert into workers (id, pool, kind, host, pid, state, slots, started_at, lease_until, lock_key)
select i.id, i.pool, i.kind, i.host, i.pid, i.state, i.slots, {now}, {now} + i.lease, i.lock_key
from {rows id text, pool text, kind text, host text, pid bigint, state text, slots bigint, lease bigint, lock_key bigint}
where true
on conflict (id) do update set state = excluded.state, lease_until = excluded.lease_until
