-- Dead workers are said to be lost, if nothing was heard of them since. Uses workers_pkey.
update workers set state = 'lost' from {rows id text, lease_until bigint}
where workers.id = i.id and workers.lease_until = i.lease_until and workers.state not in ('lost', 'stopped')
returning workers.id
