-- A page of a test job's published tests: of the first run that has any behind the given place, so that a
-- page costs its own rows only, wherever it begins. A page that goes on stays in its generation. Uses runs_testjob_generation_part_key, staged_tests_pkey.
with place as (
  select i.run, i.seq, i.result, i.logs, i.most, (
    select min(p.run) from published_runs p where p.testjob = i.testjob and p.run >= i.run
        and (i.run = 0 or p.generation = (select r.generation from runs r where r.id = i.run)) and exists (
      select 1 from staged_tests s where s.run = p.run and s.seq > case when p.run = i.run then i.seq else 0 end
        and (i.result is null or s.result = i.result))) as here
  from {rows testjob bigint, run bigint, seq bigint, result text, logs bigint, most bigint}
)
select t.run, (select r.part from runs r where r.id = t.run) as part, t.seq, t.suite, t.name, t.result,
  case when (select w.logs from place w) = 1 then t.log end as log
from staged_tests t
where t.run = (select w.here from place w)
  and t.seq > (select case when w.here = w.run then w.seq else 0 end from place w)
  and ((select w.result from place w) is null or t.result = (select w.result from place w))
order by t.seq limit (select w.most from place w)
