-- Metrics that nobody can see yet. Uses staged_metrics_pkey.
insert into staged_metrics (run, seq, suite, name, value, unit, measurements)
select i.run, i.seq, i.suite, i.name, i.value, i.unit, i.measurements
from {rows run bigint, seq bigint, suite text, name text, value double precision, unit text, measurements text}
