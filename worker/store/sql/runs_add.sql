-- The plugins that a test job waits for from now on. Uses runs_testjob_generation_part_key.
insert into runs (testjob, generation, part, task_id, state, created_at)
select i.testjob, i.generation, i.part, i.task, 'pending', {now}
from {rows testjob bigint, generation bigint, part text, task text}
where true
on conflict (testjob, generation, part) do nothing
