-- The run of one part of one generation, this task's unless another task that may still run has it. `fresh`: it was not
-- this task's before; `unclean`: it may hold rows of somebody who gave up. Uses runs_testjob_generation_part_key.
insert into runs (testjob, generation, part, task_id, state, created_at)
select j.id, j.wanted, 'fetch', i.task, 'staging', {now}
from {rows backend text, remote_id text, task text}
join testjobs j on j.backend = i.backend and j.remote_id = i.remote_id
where j.state = 'fetching'
on conflict (testjob, generation, part) do update set
  created_at = case when runs.task_id <> excluded.task_id and runs.state <> 'published' and not exists (select 1 from tasks
      where tasks.id = runs.task_id and tasks.state in ('queued', 'waiting', 'running'))
    then {now} else runs.created_at end,
  unclean = case when runs.task_id <> excluded.task_id and runs.state <> 'published' and not exists (select 1 from tasks
      where tasks.id = runs.task_id and tasks.state in ('queued', 'waiting', 'running'))
    then 1 else runs.unclean end,
  task_id = case when runs.state = 'published' or exists (select 1 from tasks
      where tasks.id = runs.task_id and tasks.state in ('queued', 'waiting', 'running'))
    then runs.task_id else excluded.task_id end
returning id, testjob, generation, state, task_id, unclean, case when created_at = {now} then 1 else 0 end as fresh
