-- Every test job with its published parts: what each part says it has, and what a reader finds of it, in
-- one snapshot. Uses runs_testjob_generation_part_key, staged_tests_pkey, staged_metrics_pkey.
select j.id as testjob, j.remote_id, j.state, p.run, p.part, p.tests, p.metrics,
  (select count(*) from published_tests t where t.testjob = j.id and t.run = p.run) as found_tests,
  (select count(*) from published_metrics m where m.testjob = j.id and m.run = p.run) as found_metrics
from testjobs j left join published_runs p on p.testjob = j.id
where {any}
order by j.id, p.run
