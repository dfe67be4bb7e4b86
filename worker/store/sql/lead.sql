-- Who maintains: the holder renews, anybody takes over once it is over; each new holder has a new term. Uses leaders_pkey.
insert into leaders (name, worker, term, lease_until)
select i.name, i.worker, 1, {now} + i.lease from {rows name text, worker text, lease bigint}
where true
on conflict (name) do update set
  term = case when leaders.worker = excluded.worker then leaders.term else leaders.term + 1 end,
  worker = excluded.worker, lease_until = excluded.lease_until
where leaders.worker = excluded.worker or leaders.lease_until < {now}
returning term
