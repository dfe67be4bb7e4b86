-- A test job's published files. Uses staged_files_pkey.
select f.run, f.part, f.seq, f.name, f.mimetype from {rows testjob bigint}
join published_files f on f.testjob = i.testjob order by f.run, f.seq
