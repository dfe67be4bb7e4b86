-- The run that a plugin's task fills, while its generation is the one that is wanted. Uses runs_testjob_generation_part_key.
update runs set state = case when runs.state = 'pending' then 'staging' else runs.state end
from {rows testjob bigint, generation bigint, part text, task text}
where runs.testjob = i.testjob and runs.generation = i.generation and runs.part = i.part and runs.task_id = i.task
  and exists (select 1 from testjobs where testjobs.id = i.testjob and testjobs.wanted = i.generation)
returning runs.id, runs.state, runs.unclean
