-- The last part of a test job is published in this transaction: nobody else may have finished it in SQUAD meanwhile.
-- A row for each of which that is so, or of which it is not the last part. Uses squad_exports_pkey, testjobs_pkey, ci_testjob_pkey.
with due as (
  select x.testjob, x.generation, t.fetched, t.job_status, x.clean, x.append from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation join public.ci_testjob t on t.id = x.pk
  order by t.id for no key update of t
)
select i.testjob from {rows testjob bigint, generation bigint}
where not exists (select 1 from due where due.testjob = i.testjob and due.generation = i.generation and case due.append when 1 then due.job_status is distinct from 'Fetching' else due.fetched and due.clean = 0 end)
