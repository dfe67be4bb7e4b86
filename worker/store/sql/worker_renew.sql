-- Renews one worker's lease; no row: rescue has ended it. Uses workers_pkey.
update workers set lease_until = {now} + i.lease, state = i.state
from {rows id text, lease bigint, state text}
where workers.id = i.id and workers.state not in ('lost', 'stopped')
returning workers.id
