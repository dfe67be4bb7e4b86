-- Whether a test run of SQUAD was written here, with all that native plugins found. Uses squad_exports_testrun.
select count(*) as exports from {rows testrun bigint} join squad_exports x on x.testrun = i.testrun and x.append = 0
