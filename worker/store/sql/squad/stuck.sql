-- Test jobs that SQUAD shows as being finished since before a time, with what a death may have left. Uses ci_testjob_submitt_fetched.
select t.id as pk, g.slug || '/' || p.slug as project, bu.version as build, t.job_id, t.testrun_id as testrun, t.subtasks_count as subtasks,
  r.job_status as status, r.data_processed as processed, r.status_recorded as recorded,
  cast(extract(epoch from t.fetched_at) * 1000 as bigint) as fetched_at,
  (select count(*) from public.core_testrun u where u.build_id = t.target_build_id and u.job_id = t.job_id
    and not exists (select 1 from public.ci_testjob o where o.testrun_id = u.id)) as loose,
  (select count(*) from public.core_pluginscratch s where s.build_id = t.target_build_id) as scratch,
  (select max(x.told_at) from squad_exports x where x.pk = t.id) as told_at
from {rows before bigint} join public.ci_testjob t on t.fetched and t.job_status = 'Fetching' and t.fetched_at < to_timestamp(i.before / 1000.0)
join public.core_project p on p.id = t.target_id join public.core_group g on g.id = p.group_id
left join public.core_build bu on bu.id = t.target_build_id left join public.core_testrun r on r.id = t.testrun_id
order by t.id
