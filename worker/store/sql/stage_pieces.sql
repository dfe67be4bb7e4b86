-- Pieces of files (PostgreSQL), each parameter a column. Uses staged_data_pkey.
insert into staged_data (run, file, seq, data)
select * from unnest(cast($1 as bigint[]), cast($2 as bigint[]), cast($3 as bigint[]), cast($4 as bytea[]))
