-- A worker takes the place of those before it of its pool and machine that have ended, and of elastic ones that ended a day ago.
-- Uses bundle_reports_pkey, workers_pkey.
delete from bundle_reports where (bundle, worker) in (select r.bundle, r.worker from {rows bundle text, worker text, pool text, host text}
  join bundle_reports r on r.bundle = i.bundle and r.worker <> i.worker
    and (r.pool = i.pool and r.host = i.host or r.kind = 'elastic' and r.reported_at < {now} - 86400000)
  where not exists (select 1 from workers w where w.id = r.worker and w.state not in ('lost', 'stopped')))
