-- The test run. None if another test job has one of this name in the build: SQUAD calls that a duplicate. Not by `on conflict`: of two that
-- go together the first would have the name, even if it is the other's that is collected anew. Asks as `replaced` does. Uses
-- core_testrun_build_id_job_id_uniq.
insert into public.core_testrun (id, created_at, build_id, environment_id, data_processed, status_recorded, datetime, build_url, job_id,
  job_status, job_url, resubmit_url, metadata_file, completed, log_file_storage, metrics_file_storage, tests_file_storage)
select x.testrun, to_timestamp({now} / 1000.0), t.target_build_id, e.id, true, true,
  case when m.facts->>'datetime' ~ '^\d\d\d\d-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.]\d+)?)?(Z|[+-]\d\d:?\d\d)?)?$' then cast(m.facts->>'datetime' as timestamptz) else to_timestamp({now} / 1000.0) end,
  nullif(m.facts->>'build_url', ''), t.job_id, nullif(m.facts->>'job_status', ''), nullif(m.facts->>'job_url', ''), nullif(m.facts->>'resubmit_url', ''),
  x.metadata, x.completed = 1, 'testrun/' || x.testrun || '/log_file', 'testrun/' || x.testrun || '/metrics_file',
  'testrun/' || x.testrun || '/tests_file'
from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation join public.ci_testjob t on t.id = x.pk
cross join lateral (select cast(x.metadata as jsonb) as facts) m
join public.core_environment e on e.project_id = t.target_id and e.slug = coalesce(x.environment, t.environment)
where x.append = 0 and not exists (
  select 1 from (select build_id, job_id from public.core_testrun where (build_id, job_id) >= (t.target_build_id, t.job_id) order by build_id, job_id limit 1) r
  where r.build_id = t.target_build_id and r.job_id = t.job_id)
returning id
