-- A run that no reader will see again, after its rows. Uses runs_pkey.
delete from runs where runs.id in (select i.run from {rows run bigint})
