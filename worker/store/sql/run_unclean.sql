-- A run whose rows are about to go: whoever fills it again clears it first. Uses runs_pkey.
update runs set unclean = 1 from {rows run bigint} where runs.id = i.run
