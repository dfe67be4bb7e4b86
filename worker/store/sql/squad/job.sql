-- A test job of SQUAD with what a fetch of it needs. Uses ci_testjob_pkey, ci_backend_pkey, core_project_pkey,
-- core_group_pkey, core_build_pkey, ci_resultsinput_test_job_id_key.
select t.id as pk, t.job_id, t.fetched, t.fetch_attempts, t.job_status, t.testrun_id as testrun, t.environment, t.definition, t.resubmitted_count,
  t.target_build_id as build, bu.version, b.name as backend, b.url, b.username, b.token, b.implementation_type as kind, b.backend_settings,
  b.max_fetch_attempts, g.slug || '/' || p.slug as project, p.project_settings, p.enabled_plugins_list as plugins, c.text as told
from {rows pk bigint} join public.ci_testjob t on t.id = i.pk
join public.ci_backend b on b.id = t.backend_id join public.core_project p on p.id = t.target_id
join public.core_group g on g.id = p.group_id left join public.core_build bu on bu.id = t.target_build_id
left join public.ci_resultsinput c on c.test_job_id = t.id
