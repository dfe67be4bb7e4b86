-- A page of a test job's published tests. Uses staged_tests_pkey.
select p.run, p.part, t.seq, t.suite, t.name, t.result, case when i.logs = 1 then t.log end as log
from {rows testjob bigint, run bigint, seq bigint, result text, logs bigint}
join published_runs p on p.testjob = i.testjob and p.run >= i.run
join staged_tests t on t.run = p.run and (p.run > i.run or t.seq > i.seq) and (i.result is null or t.result = i.result)
order by p.run, t.seq limit (select k.most from {rows:k most bigint})
