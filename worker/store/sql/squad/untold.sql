-- Test jobs that SQUAD still shows as being finished, though it was told long enough ago. Uses squad_exports_told, ci_testjob_pkey.
select x.testjob, x.generation, x.pk, x.status
from {rows before bigint, most bigint} join squad_exports x on x.told_at < i.before
join public.ci_testjob t on t.id = x.pk and t.job_status = 'Fetching' and t.fetched
order by x.told_at limit (select k.most from {rows:k most bigint})
