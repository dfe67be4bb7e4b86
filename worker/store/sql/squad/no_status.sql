-- What SQUAD shows of a test run is reckoned anew when a plugin adds to it. Uses core_status_test_run_id.
delete from public.core_status using {rows testjob bigint, generation bigint}
join squad_due x on x.testjob = i.testjob and x.generation = i.generation and x.append = 1
where core_status.test_run_id = x.testrun
