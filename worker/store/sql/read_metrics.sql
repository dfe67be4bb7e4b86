-- A page of a test job's published metrics. Uses staged_metrics_pkey.
select p.run, p.part, m.seq, m.suite, m.name, m.value, m.unit, m.measurements
from {rows testjob bigint, run bigint, seq bigint}
join published_runs p on p.testjob = i.testjob and p.run >= i.run
join staged_metrics m on m.run = p.run and (p.run > i.run or m.seq > i.seq)
order by p.run, m.seq limit (select k.most from {rows:k most bigint})
