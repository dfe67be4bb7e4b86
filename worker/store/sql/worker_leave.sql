-- A worker ends in order; what it may still hold is for rescue. Uses workers_pkey.
update workers set state = 'stopped', lease_until = {now} from {rows id text} where workers.id = i.id
