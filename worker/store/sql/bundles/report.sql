-- A worker says what it has. Uses bundle_reports_pkey.
insert into bundle_reports (bundle, worker, pool, kind, host, reported_at, report)
select i.bundle, i.worker, i.pool, i.kind, i.host, {now}, i.report
from {rows bundle text, worker text, pool text, kind text, host text, report text}
where true
on conflict (bundle, worker) do update set reported_at = excluded.reported_at, report = excluded.report
