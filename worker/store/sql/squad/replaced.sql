-- Test runs that stand where this one goes: this test job's own of before, and what a death left without a test job.
-- Each is looked up such that only one index serves, whatever PostgreSQL knows of a table that was small or empty when it planned: by
-- the build alone, all test runs of that would be read. Uses core_testrun_pkey, core_testrun_build_id_job_id_uniq,
-- core_test_test_run_id and its siblings.
with old as (
  select r.id from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation join public.ci_testjob t on t.id = x.pk
  cross join lateral (select own.id from (select id, build_id from public.core_testrun where id = t.testrun_id offset 0) own where own.build_id = t.target_build_id
    union select named.id from (select id, build_id, job_id from public.core_testrun where (build_id, job_id) >= (t.target_build_id, t.job_id) order by build_id, job_id limit 1) named
      where named.build_id = t.target_build_id and named.job_id = t.job_id) r
  where x.append = 0 and not exists (select 1 from public.ci_testjob o where o.testrun_id = r.id and o.id <> t.id)
), tests as (
  select c.id from old join public.core_test c on c.test_run_id = old.id
), issues as (
  delete from public.core_test_known_issues k using tests where k.test_id = tests.id
), gone_tests as (
  delete from public.core_test c using old where c.test_run_id = old.id
), gone_metrics as (
  delete from public.core_metric c using old where c.test_run_id = old.id
), gone_status as (
  delete from public.core_status c using old where c.test_run_id = old.id
), gone_files as (
  delete from public.core_attachment c using old where c.test_run_id = old.id
), unlinked as (
  update public.ci_testjob t set testrun_id = null from old where t.testrun_id = old.id
)
delete from public.core_testrun r using old where r.id = old.id
returning r.id
