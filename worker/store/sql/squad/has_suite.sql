-- Whether the fetch has brought a test of that suite, or SQUAD has one where plugins add to its test run.
-- Uses runs_testjob_generation_part_key, staged_tests_pkey, squad_exports_pkey, core_test_test_run_id.
select 1 as found from {rows testjob bigint, generation bigint, suite text}
where exists (
  select 1 from runs r join staged_tests s on s.run = r.id and s.suite = i.suite
  where r.testjob = i.testjob and r.generation = i.generation and r.part = 'fetch'
) or exists (
  select 1 from squad_exports x join public.core_test c on c.test_run_id = x.testrun
  join public.core_suite u on u.id = c.suite_id and u.slug = i.suite
  where x.testjob = i.testjob and x.generation = i.generation
)
