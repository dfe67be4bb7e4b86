-- Collections of which SQUAD shows everything, or what has replaced them, with their runs: what was staged is read by nobody
-- any more. Uses squad_exports_staged, testjobs_pkey, runs_testjob_generation_part_key.
with shown as (
  select x.testjob, x.generation from {rows most bigint} join squad_exports x on x.staged = 1 join testjobs j on j.id = x.testjob
  where x.generation < j.visible or x.generation = j.wanted and j.state in ('complete', 'incomplete', 'canceled')
  order by x.testjob, x.generation limit (select k.most from {rows:k most bigint})
)
select s.testjob, s.generation, r.id as run from shown s
left join runs r on r.testjob = s.testjob and r.generation = s.generation
