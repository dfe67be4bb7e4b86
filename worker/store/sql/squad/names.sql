-- The environment, and the names of suites, tests and metrics that SQUAD has not met yet. In order, so that two that
-- bring the same names wait for one another in one direction. Known ones are left out first: of many, most were made known ahead.
-- Uses runs_testjob_generation_part_key, staged_tests_pkey, staged_metrics_pkey.
with due as (
  select x.testjob, x.generation, t.target_id, coalesce(x.environment, t.environment) as environment, x.completed from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation join public.ci_testjob t on t.id = x.pk
), parts as (
  select r.id, r.part from due join runs r on r.testjob = due.testjob and r.generation = due.generation where due.completed = 1 or r.part <> 'fetch'
), environments as (
  insert into public.core_environment (slug, project_id, expected_test_runs) select distinct environment, target_id, 0 from due order by 2, 1 on conflict do nothing
), suites as (
  select distinct s.suite from parts join staged_tests s on s.run = parts.id and parts.part <> 'kernel-log'
  union select distinct s.suite from parts join staged_metrics s on s.run = parts.id
), names as (
  select 'test' as kind, s.suite, s.name from parts join staged_tests s on s.run = parts.id
  where not exists (select 1 from public.core_suitemetadata m where m.kind = 'test' and m.suite = s.suite and m.name = s.name)
  union select 'metric', s.suite, s.name from parts join staged_metrics s on s.run = parts.id
  where not exists (select 1 from public.core_suitemetadata m where m.kind = 'metric' and m.suite = s.suite and m.name = s.name)
  union all select 'suite', s.suite, '-' from suites s
  where not exists (select 1 from public.core_suitemetadata m where m.kind = 'suite' and m.suite = s.suite and m.name = '-')
)
insert into public.core_suitemetadata (kind, suite, name)
select n.kind, n.suite, n.name from names n
order by n.kind, n.suite, n.name
on conflict (kind, suite, name) do nothing
