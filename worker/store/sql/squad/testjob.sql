-- The test job has its test run, or why it has none; it is being finished until SQUAD itself says how it ended. Only these
-- columns: what others write to the row stays. Uses ci_testjob_pkey.
update public.ci_testjob set testrun_id = r.id, fetched = true, fetched_at = to_timestamp({now} / 1000.0),
  last_fetch_attempt = to_timestamp({now} / 1000.0), job_status = 'Fetching', subtasks_count = 0,
  failure = case when r.id is null then 'There is already a test run with job_id ' || ci_testjob.job_id else d.failure end,
  can_resubmit = ci_testjob.can_resubmit or d.completed = 0, name = coalesce(left(d.name, 255), ci_testjob.name),
  environment = coalesce(d.environment, ci_testjob.environment),
  started_at = coalesce(cast(d.started_at as timestamptz), ci_testjob.started_at), ended_at = coalesce(cast(d.ended_at as timestamptz), ci_testjob.ended_at)
from (select x.* from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation join public.ci_testjob t on t.id = x.pk) d left join public.core_testrun r on r.id = d.testrun
where ci_testjob.id = d.pk and d.append = 0
returning ci_testjob.id
