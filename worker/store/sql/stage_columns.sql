-- Tests that nobody can see yet (PostgreSQL), each parameter a column.
insert into staged_tests (run, seq, suite, name, result, log)
select * from unnest(cast($1 as bigint[]), cast($2 as bigint[]), cast($3 as text[]), cast($4 as text[]), cast($5 as text[]), cast($6 as text[]))
