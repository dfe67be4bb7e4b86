-- Tests that nobody can see yet (SQLite; PostgreSQL has stage_columns).
insert into staged_tests (run, seq, suite, name, result, log)
select i.run, i.seq, i.suite, i.name, i.result, i.log
from {rows run bigint, seq bigint, suite text, name text, result text, log text}
