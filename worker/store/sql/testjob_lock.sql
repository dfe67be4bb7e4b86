-- Those that publish parts of one test job do so one after another, so that the last one sees all others. Uses testjobs_pkey.
update testjobs set wanted = testjobs.wanted from {rows testjob bigint, generation bigint}
where testjobs.id = i.testjob and testjobs.wanted = i.generation
returning testjobs.id
