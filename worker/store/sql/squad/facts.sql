-- What plugins add to the metadata of the test run. Uses squad_exports_pkey, runs_testjob_generation_part_key, staged_facts_pkey.
update squad_exports set metadata = cast(cast(squad_exports.metadata as jsonb) || f.facts as text)
from (
  select x.testjob, x.generation, jsonb_object_agg(s.key, cast(s.value as jsonb)) as facts
  from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation
  join runs r on r.testjob = x.testjob and r.generation = x.generation and r.part <> 'fetch'
  join staged_facts s on s.run = r.id and s.kind = 'metadata'
  group by x.testjob, x.generation
) f
where squad_exports.testjob = f.testjob and squad_exports.generation = f.generation and squad_exports.metadata is not null
