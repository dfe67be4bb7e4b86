-- Readers may see this run, once its generation is the visible one. Uses runs_pkey.
update runs set state = 'published', published_at = {now}, tests = i.tests, passed = i.passed, failed = i.failed,
  xfailed = i.xfailed, skipped = i.skipped, metrics = i.metrics, problems = i.problems
from {rows run bigint, tests bigint, passed bigint, failed bigint, xfailed bigint, skipped bigint, metrics bigint, problems bigint}
where runs.id = i.run and runs.state = 'staging'
returning runs.id
