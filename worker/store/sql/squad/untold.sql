-- Test jobs that SQUAD was told of long enough ago, and shows as being finished; or whose build's status lacks them, in the first
-- hour (a build may stay unfinished or silent for reasons of its project). Not before as long again as it took until it was
-- last told. Uses squad_exports_told, ci_testjob_pkey, core_projectstatus_build_id_key.
select x.testjob, x.generation, x.pk, x.status, w.since
from {rows before bigint, most bigint} join squad_exports x on x.told_at < i.before
join public.ci_testjob t on t.id = x.pk and t.fetched
cross join lateral (select x.told_at - cast(extract(epoch from coalesce(t.fetched_at, t.created_at)) * 1000 as bigint) as since) w
where {now} - x.told_at >= least(w.since, 900000) and (t.job_status = 'Fetching' or w.since < 3600000 and t.testrun_id is not null and not exists (
  select 1 from public.core_projectstatus s join public.core_project p on p.id = t.target_id
  where s.build_id = t.target_build_id and s.test_runs_total = (select count(*) from public.core_testrun r where r.build_id = s.build_id)
    and (s.notified or s.finished and (p.moderate_notifications or p.wait_before_notification > 0)
      or exists (select 1 from public.ci_testjob o where o.target_build_id = s.build_id and (not o.fetched or o.job_status = 'Fetching')))))
order by x.told_at limit (select k.most from {rows:k most bigint})
