-- The facts that a run has staged. Uses staged_facts_pkey.
select s.key, s.value from {rows run bigint} join staged_facts s on s.run = i.run and s.kind = 'metadata' order by s.seq
