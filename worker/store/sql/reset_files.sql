-- What a run has staged is dropped, a bounded piece at a time: its source did not repeat itself. Uses staged_files_pkey.
delete from staged_files where staged_files.run in (select i.run from {rows run bigint})
