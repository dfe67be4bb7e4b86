-- The number of the test run. Uses squad_exports_pkey.
select x.testrun from {rows testjob bigint, generation bigint}
join squad_exports x on x.testjob = i.testjob and x.generation = i.generation
