-- What SQUAD shows of the test run as a whole and of each suite: counts, and the geometric mean of what was measured above 0.
-- Once for all that are due, so `materialized`. Uses core_test_test_run_id, core_metric_test_run_id.
with due as (
  select x.testrun, cast(r.metadata_file as jsonb)->'suite_versions' as versions from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation join public.ci_testjob t on t.id = x.pk join public.core_testrun r on r.id = x.testrun
), tests as (
  select due.testrun, c.suite_id, count(*) filter (where c.result) as pass, count(*) filter (where not c.result and c.has_known_issues is true) as xfail,
    count(*) filter (where not c.result and c.has_known_issues is not true) as fail, count(*) filter (where c.result is null) as skip
  from due join public.core_test c on c.test_run_id = due.testrun group by grouping sets ((due.testrun, c.suite_id), (due.testrun))
), metrics as (
  select due.testrun, c.suite_id, count(*) as measured, coalesce(exp(sum(ln(v.value) order by c.id, v.at) filter (where v.value > 0) / count(*) filter (where v.value > 0)), 0) as mean
  from due join public.core_metric c on c.test_run_id = due.testrun
  cross join lateral (select cast(part as double precision) as value, at from unnest(string_to_array(c.measurements, ',')) with ordinality u(part, at)) v
  group by grouping sets ((due.testrun, c.suite_id), (due.testrun))
), shown as materialized (
  select testrun, suite_id, sum(pass) as pass, sum(fail) as fail, sum(skip) as skip, sum(xfail) as xfail, sum(measured) as measured, max(mean) as mean from (
    select testrun, suite_id, pass, fail, skip, xfail, 0 as measured, 0 as mean from tests
    union all select testrun, suite_id, 0, 0, 0, 0, measured, mean from metrics
    union all select testrun, null, 0, 0, 0, 0, 0, 0 from due
  ) of_all group by testrun, suite_id
)
insert into public.core_status (tests_pass, tests_fail, metrics_summary, suite_id, test_run_id, tests_skip, suite_version_id, has_metrics, tests_xfail)
select shown.pass, shown.fail, shown.mean, shown.suite_id, due.testrun, shown.skip,
  (select v.id from public.core_suite u join public.core_suiteversion v on v.suite_id = u.id
   where u.id = shown.suite_id and jsonb_typeof(due.versions) = 'object' and v.version = due.versions->>u.slug),
  shown.measured > 0 or shown.suite_id is null, shown.xfail
from due join shown on shown.testrun = due.testrun
