-- A test job is finished when every run of its generation is published: derived, never counted. Uses runs_testjob_generation_part_key.
update testjobs set visible = testjobs.wanted, ended_at = {now},
  state = case testjobs.status when 'Complete' then 'complete' when 'Canceled' then 'canceled' else 'incomplete' end
from {rows testjob bigint}
where testjobs.id = i.testjob and testjobs.state = 'postprocessing' and not exists (select 1 from runs
  where runs.testjob = testjobs.id and runs.generation = testjobs.wanted and runs.state <> 'published')
returning testjobs.id, testjobs.state
