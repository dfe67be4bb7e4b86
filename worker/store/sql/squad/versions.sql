-- The versions of suites that the test job's metadata names. Uses core_suite_project_id_slug_uniq, core_suiteversion_suite_id_version_uniq.
with named as materialized (
  select t.target_id as project, r.id as testrun, v.key as suite, v.value as version
  from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation join public.ci_testjob t on t.id = x.pk
  join public.core_testrun r on r.id = x.testrun
  cross join lateral jsonb_each_text(case jsonb_typeof(cast(r.metadata_file as jsonb)->'suite_versions') when 'object' then cast(r.metadata_file as jsonb)->'suite_versions' else jsonb_build_object() end) v
)
insert into public.core_suiteversion (version, first_seen, suite_id)
select distinct n.version, to_timestamp({now} / 1000.0), u.id
from named n join public.core_suite u on u.project_id = n.project and u.slug = n.suite
where exists (select 1 from public.core_test c where c.test_run_id = n.testrun and c.suite_id = u.id)
  or exists (select 1 from public.core_metric c where c.test_run_id = n.testrun and c.suite_id = u.id)
order by 3, 1
on conflict do nothing
