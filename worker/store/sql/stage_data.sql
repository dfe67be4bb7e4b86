-- One piece of a file (SQLite). Uses staged_data_pkey.
insert into staged_data (run, file, seq, data) select i.run, i.file, i.seq, $3 from {rows run bigint, file bigint, seq bigint}
