-- What a run has staged goes, a bounded piece at a time. Uses staged_metrics_pkey.
delete from staged_metrics where (run, seq) in (select s.run, s.seq from {rows run bigint, most bigint}
  join staged_metrics s on s.run = i.run limit (select max(k.most) from {rows:k most bigint}))
returning run
