-- A page of what a run has staged. Uses staged_metrics_pkey.
select s.seq, s.suite, s.name, s.value, s.unit, s.measurements from {rows run bigint, after bigint, most bigint}
join staged_metrics s on s.run = i.run and s.seq > i.after order by s.seq limit (select k.most from {rows:k most bigint})
