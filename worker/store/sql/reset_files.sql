-- What a run has staged goes, a bounded piece at a time. Uses staged_files_pkey.
delete from staged_files where (run, seq) in (select s.run, s.seq from {rows run bigint, most bigint}
  join staged_files s on s.run = i.run limit (select max(k.most) from {rows:k most bigint}))
returning run
