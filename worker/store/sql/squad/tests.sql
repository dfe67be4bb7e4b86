-- All tests of all parts. Within the fetch the last of several of one name counts, as in SQUAD's own files. Known issues are those of
-- the environment whose name, with * for anything, the test's name begins with; in tradefed's results, whose name it is.
-- SQUAD's log parser asks for none, and its tradefed plugin writes an empty log where there is none.
-- Every row that a test refers to is locked as its foreign keys would lock it. Uses staged_tests_pkey, core_suite_project_id_slug_uniq, core_suitemetadata_kind_suite_name_uniq.
with due as (
  select x.testjob, x.generation, x.completed, r.id as testrun, r.build_id, r.environment_id, t.target_id from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation join public.ci_testjob t on t.id = x.pk
  join public.core_testrun r on r.id = x.testrun join public.core_build b on b.id = r.build_id join public.core_environment e on e.id = r.environment_id
  for key share of r, b, e
), known as materialized (
  select e.environment_id, k.test_name, k.test_name like '%*%' as starred,
    '^' || replace(regexp_replace(k.test_name, '([^[:alnum:]_*/])', '\\\1', 'g'), '*', '.*?') as pattern
  from (select distinct environment_id from due) e join public.core_knownissue_environments l on l.environment_id = e.environment_id
  join public.core_knownissue k on k.id = l.knownissue_id and k.active
), twice as materialized (
  select s.run, s.suite, s.name, max(s.seq) as last
  from due join runs p on p.testjob = due.testjob and p.generation = due.generation and due.completed = 1 and p.part = 'fetch'
  join staged_tests s on s.run = p.id group by s.run, s.suite, s.name having count(*) > 1
), named as (
  select due.*, p.part, s.run, s.seq, s.suite, s.name, s.result, s.log,
    case when s.suite = '/' then s.name else s.suite || '/' || s.name end as full_name
  from due join runs p on p.testjob = due.testjob and p.generation = due.generation and (due.completed = 1 or p.part <> 'fetch')
  join staged_tests s on s.run = p.id
)
insert into public.core_test (result, suite_id, test_run_id, log, metadata_id, has_known_issues, build_id, environment_id)
select case n.result when 'pass' then true when 'skip' then null else false end, u.id, n.testrun,
  case when n.part = 'tradefed' then coalesce(n.log, '') else n.log end, m.id,
  case when n.part = 'kernel-log' then null else n.result = 'xfail' or case when n.part = 'tradefed' then (n.environment_id, n.full_name) in (select environment_id, test_name from known)
    else exists (select 1 from known k where k.environment_id = n.environment_id and case when k.starred then n.full_name ~ k.pattern else starts_with(n.full_name, k.test_name) end) end end,
  n.build_id, n.environment_id
from named n
join public.core_suite u on u.project_id = n.target_id and u.slug = n.suite
join public.core_suitemetadata m on m.kind = 'test' and m.suite = n.suite and m.name = n.name
where not exists (select 1 from twice where twice.run = n.run and twice.suite = n.suite and twice.name = n.name and twice.last > n.seq)
for key share of u, m
