-- Test runs of test jobs that no test job is linked to, but for those that are being collected anew: their fetch replaces
-- them. Uses core_testrun_build_id_job_id_uniq, core_test_test_run_id and its siblings.
with old as (
  select r.id from public.core_testrun r
  where exists (select 1 from public.ci_testjob t where t.target_build_id = r.build_id and t.job_id = r.job_id and t.fetched and t.testrun_id is distinct from r.id)
    and not exists (select 1 from public.ci_testjob o where o.testrun_id = r.id)
    and r.created_at < to_timestamp((select i.before from {rows before bigint}) / 1000.0)
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
)
delete from public.core_testrun r using old where r.id = old.id
returning r.id
