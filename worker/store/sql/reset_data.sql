-- What a run has staged is dropped, a bounded piece at a time: its source did not repeat itself. Uses staged_data_pkey.
delete from staged_data where staged_data.run in (select i.run from {rows run bigint})
