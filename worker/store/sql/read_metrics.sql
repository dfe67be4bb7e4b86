-- A page of a test job's published metrics: of the first run that has any behind the given place, so that a
-- page costs its own rows only, wherever it begins. A page that goes on stays in its generation. Uses runs_testjob_generation_part_key, staged_metrics_pkey.
with place as (
  select i.run, i.seq, i.most, (
    select min(p.run) from published_runs p where p.testjob = i.testjob and p.run >= i.run
        and (i.run = 0 or p.generation = (select r.generation from runs r where r.id = i.run)) and exists (
      select 1 from staged_metrics s where s.run = p.run and s.seq > case when p.run = i.run then i.seq else 0 end)) as here
  from {rows testjob bigint, run bigint, seq bigint, most bigint}
)
select m.run, (select r.part from runs r where r.id = m.run) as part, m.seq, m.suite, m.name, m.value, m.unit, m.measurements
from staged_metrics m
where m.run = (select w.here from place w)
  and m.seq > (select case when w.here = w.run then w.seq else 0 end from place w)
order by m.seq limit (select w.most from place w)
