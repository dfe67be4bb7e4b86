-- Messages for SQUAD's own workers, once the last part of the test job is published. "@testrun" in them is the test run's number,
-- "@successor" the number of the test job that takes its place, if there is one.
insert into outbox (task_id, queue, priority, task, held_until)
select m.id, m.queue, 0, replace(replace(m.task, '"@testrun"', cast(x.testrun as text)), '"@successor"', coalesce(cast(x.resubmitted as text), '')),
  {now} + 2000
from {rows:m testjob bigint, generation bigint, id text, queue text, task text}
join squad_due x on x.testjob = m.testjob and x.generation = m.generation
where x.resubmitted is not null or m.task not like '%"@successor"%'
returning seq, queue, priority, task
