-- The lease and the lock of some workers. Uses workers_pkey.
select workers.id, workers.lease_until, workers.lock_key, workers.state from {rows id text}
join workers on workers.id = i.id
