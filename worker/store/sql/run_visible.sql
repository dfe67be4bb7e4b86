-- Whether readers see this run. Uses runs_pkey, testjobs_pkey.
select p.run from {rows run bigint} join published_runs p on p.run = i.run
