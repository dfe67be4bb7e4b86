-- Where test jobs stand; one whose task is a dead letter says so, whatever it had reached. Uses testjobs_pkey, runs_testjob_generation_part_key.
select j.id, j.backend, j.remote_id, j.project, j.build, j.environment, j.status, j.name, j.url, j.created_at, j.fetched_at, j.ended_at,
  j.visible, j.wanted,
  case when j.state in ('fetching', 'submitted', 'postprocessing') and exists (select 1 from runs r join tasks t on t.id = r.task_id
    where r.testjob = j.id and r.generation = j.wanted and r.state <> 'published' and t.state in ('dead', 'canceled', 'expired'))
    then 'failed' else j.state end as state,
  coalesce((select min(t.reason) from runs r join tasks t on t.id = r.task_id
    where r.testjob = j.id and r.generation = j.wanted and r.state <> 'published' and t.reason is not null), j.reason) as reason,
  coalesce((select cast(sum(p.tests) as bigint) from published_runs p where p.testjob = j.id), 0) as tests,
  coalesce((select cast(sum(p.passed) as bigint) from published_runs p where p.testjob = j.id), 0) as passed,
  coalesce((select cast(sum(p.failed) as bigint) from published_runs p where p.testjob = j.id), 0) as failed,
  coalesce((select cast(sum(p.xfailed) as bigint) from published_runs p where p.testjob = j.id), 0) as xfailed,
  coalesce((select cast(sum(p.skipped) as bigint) from published_runs p where p.testjob = j.id), 0) as skipped,
  coalesce((select cast(sum(p.metrics) as bigint) from published_runs p where p.testjob = j.id), 0) as metrics,
  coalesce((select cast(sum(p.problems) as bigint) from published_runs p where p.testjob = j.id), 0) as problems
from {rows id bigint, backend text, remote_id text, project text, after bigint, most bigint}
join testjobs j on (i.id is null or j.id = i.id) and (i.backend is null or j.backend = i.backend)
  and (i.remote_id is null or j.remote_id = i.remote_id) and (i.project is null or j.project = i.project) and j.id > i.after
order by j.id limit (select k.most from {rows:k most bigint})
