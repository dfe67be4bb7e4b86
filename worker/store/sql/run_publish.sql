-- Readers may see this run, once its generation is the visible one; only the task whose run it is says so. Uses runs_pkey.
update runs set state = 'published', published_at = {now}, tests = i.tests, passed = i.passed, failed = i.failed,
  xfailed = i.xfailed, skipped = i.skipped, metrics = i.metrics, problems = i.problems
from {rows run bigint, task text, tests bigint, passed bigint, failed bigint, xfailed bigint, skipped bigint, metrics bigint, problems bigint}
where runs.id = i.run and runs.state = 'staging' and runs.task_id = i.task
returning runs.id
