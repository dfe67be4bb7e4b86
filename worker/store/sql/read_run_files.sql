-- The files of the run that a plugin works on. Uses staged_files_pkey.
select f.run, f.seq, f.name, f.mimetype from {rows testjob bigint, generation bigint}
join runs r on r.testjob = i.testjob and r.generation = i.generation and r.part = 'fetch' and r.state = 'published'
join staged_files f on f.run = r.id order by f.seq
