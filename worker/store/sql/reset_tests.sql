-- What a run has staged is dropped, a bounded piece at a time: its source did not repeat itself. Uses staged_tests_pkey.
delete from staged_tests where staged_tests.run in (select i.run from {rows run bigint})
