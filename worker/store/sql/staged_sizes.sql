-- How much of each run is durable, visible or not. Uses runs_testjob_generation_part_key and the staged tables' primary keys.
select r.id as run, r.testjob, r.part, r.state, r.tests,
  (select count(*) from staged_tests s where s.run = r.id) as staged_tests,
  (select count(*) from staged_metrics s where s.run = r.id)
    + (select count(*) from staged_facts s where s.run = r.id)
    + (select count(*) from staged_files s where s.run = r.id)
    + (select count(*) from staged_data s where s.run = r.id) as other_rows
from {rows testjob bigint} join runs r on i.testjob is null or r.testjob = i.testjob
order by r.id
