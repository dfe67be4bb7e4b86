-- What a run has staged is dropped, a bounded piece at a time: its source did not repeat itself. Uses staged_metrics_pkey.
delete from staged_metrics where staged_metrics.run in (select i.run from {rows run bigint})
