-- What a run has staged goes, a bounded piece at a time. Uses staged_data_pkey.
delete from staged_data where (run, file, seq) in (select s.run, s.file, s.seq from {rows run bigint, most bigint}
  join staged_data s on s.run = i.run limit (select max(k.most) from {rows:k most bigint}))
returning run
