-- Which part is where. Uses runs_testjob_generation_part_key.
select r.id as run, r.part, r.generation, r.state as run_state, r.tests, r.metrics, r.problems, r.published_at, r.task_id,
  t.state as task_state, t.failures, t.crashes, t.interruptions, t.worker, t.reason, t.progress, t.run_at
from {rows testjob bigint} join testjobs j on j.id = i.testjob
join runs r on r.testjob = j.id and r.generation = j.wanted left join tasks t on t.id = r.task_id
order by r.id
