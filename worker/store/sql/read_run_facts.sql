-- The metadata of the run that a plugin works on, visible or not: its generation may not be yet. Uses staged_facts_pkey.
select f.kind, f.key, f.value from {rows testjob bigint, generation bigint}
join runs r on r.testjob = i.testjob and r.generation = i.generation and r.part = 'fetch' and r.state = 'published'
join staged_facts f on f.run = r.id order by f.seq
