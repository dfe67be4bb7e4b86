-- The files that a run has staged. Uses staged_files_pkey.
select s.run, '' as part, s.seq, s.name, s.mimetype from {rows run bigint} join staged_files s on s.run = i.run order by s.seq
