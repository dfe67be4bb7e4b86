-- A failed assumption is a known issue of its environment in SQUAD, one for each name. Uses staged_tests_pkey.
with due as (
  select x.testjob, x.generation, r.environment_id from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation join public.ci_testjob t on t.id = x.pk join public.core_testrun r on r.id = x.testrun
), wanted as (
  select distinct due.environment_id, s.suite || '/' || s.name as test_name
  from due join runs p on p.testjob = due.testjob and p.generation = due.generation and p.part = 'tradefed'
  join staged_tests s on s.run = p.id and s.result = 'xfail'
), there as (
  select k.id, k.test_name, w.environment_id from wanted w join public.core_knownissue k on k.test_name = w.test_name
), new as (
  insert into public.core_knownissue (title, test_name, active, intermittent)
  select 'Tradefed/' || w.test_name, w.test_name, true, false from (select distinct test_name from wanted) w
  where not exists (select 1 from there where there.test_name = w.test_name)
  returning id, test_name
)
insert into public.core_knownissue_environments (knownissue_id, environment_id)
select there.id, there.environment_id from there
union select new.id, w.environment_id from new join wanted w on w.test_name = new.test_name
on conflict do nothing
