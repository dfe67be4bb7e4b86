-- The last part of a test job is published in this transaction: nobody else may have finished it in SQUAD meanwhile.
-- A row if so, or if it is not the last part. Uses squad_exports_pkey, testjobs_pkey, ci_testjob_pkey.
with due as (
  select t.id, t.fetched, x.clean, x.append from {rows testjob bigint, generation bigint} join squad_due x on x.testjob = i.testjob and x.generation = i.generation join public.ci_testjob t on t.id = x.pk
  for no key update of t
)
select 1 as free from {rows testjob bigint}
where not exists (select 1 from due) or exists (select 1 from due where not due.fetched or due.clean = 1 or due.append = 1)
