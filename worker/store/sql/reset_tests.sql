-- What a run has staged goes, a bounded piece at a time. Uses staged_tests_pkey.
delete from staged_tests where (run, seq) in (select s.run, s.seq from {rows run bigint, most bigint}
  join staged_tests s on s.run = i.run limit (select max(k.most) from {rows:k most bigint}))
returning run
