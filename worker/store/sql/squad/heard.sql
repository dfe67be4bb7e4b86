-- SQUAD has heard of these, as its test job and its build's status show; or nobody can tell it any more. Uses
-- squad_exports_told, ci_testjob_pkey, core_projectstatus_build_id_key.
update squad_exports set told_at = null from {rows before bigint}
where squad_exports.told_at < i.before and not exists (select 1 from public.ci_testjob t
  cross join lateral (select squad_exports.told_at - cast(extract(epoch from coalesce(t.fetched_at, t.created_at)) * 1000 as bigint) as since) w
  where t.id = squad_exports.pk and t.fetched
    and (t.job_status = 'Fetching' or w.since < 3600000 and t.testrun_id is not null and not exists (
      select 1 from public.core_projectstatus s join public.core_project p on p.id = t.target_id
      where s.build_id = t.target_build_id and s.test_runs_total = (select count(*) from public.core_testrun r where r.build_id = s.build_id)
        and (s.notified or s.finished and (p.moderate_notifications or p.wait_before_notification > 0)
          or exists (select 1 from public.ci_testjob o where o.target_build_id = s.build_id and (not o.fetched or o.job_status = 'Fetching'))))))
