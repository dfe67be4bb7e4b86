-- A test job's published metadata and problems. Uses staged_facts_pkey.
select f.kind, f.key, f.value from {rows testjob bigint, kind text}
join published_facts f on f.testjob = i.testjob and f.kind = i.kind join published_runs p on p.run = f.run
order by p.run, f.seq limit 10000
