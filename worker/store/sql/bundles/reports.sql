-- Who follows a bundle, and what they said last; an elastic worker that nobody knows any more has ended. Uses bundle_reports_pkey, workers_pkey.
select r.worker, r.pool, r.kind, r.host, r.reported_at, r.report,
  case when exists (select 1 from workers w where w.id = r.worker and w.state in ('lost', 'stopped'))
    or r.kind = 'elastic' and r.reported_at < {now} - 60000 and not exists (select 1 from workers w where w.id = r.worker) then 1 else 0 end as lost
from {rows bundle text} join bundle_reports r on r.bundle = i.bundle
order by r.pool, r.host, r.worker
