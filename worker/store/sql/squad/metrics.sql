-- All metrics; the last of several of one name counts. Uses staged_metrics_pkey.
insert into public.core_metric (result, measurements, suite_id, test_run_id, metadata_id, is_outlier, unit, build_id, environment_id)
select n.value, n.measurements, u.id, n.testrun, m.id, false, n.unit, n.build_id, n.environment_id
from (
  select r.id as testrun, r.build_id, r.environment_id, t.target_id, s.run, s.seq, s.suite, s.name, s.value, trim(both '[]' from s.measurements) as measurements, case when b.implementation_type = 'lava' then left(s.unit, 30) else nullif(left(s.unit, 30), '') end as unit,
    lead(s.seq) over (partition by s.run, s.suite, s.name order by s.seq) as later
  from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation join public.ci_testjob t on t.id = x.pk
  join public.core_testrun r on r.id = x.testrun
  join public.ci_backend b on b.id = t.backend_id
  join runs p on p.testjob = x.testjob and p.generation = x.generation and (x.completed = 1 or p.part <> 'fetch')
  join staged_metrics s on s.run = p.id
) n
join public.core_suite u on u.project_id = n.target_id and u.slug = n.suite
join public.core_suitemetadata m on m.kind = 'metric' and m.suite = n.suite and m.name = n.name
where n.later is null
order by n.run, n.seq
