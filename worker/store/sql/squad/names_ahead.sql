-- The same names for a few rows of a run, before it is published: a name without a test shows nowhere, and a million
-- of them need not wait in the transaction that shows the tests. All names of these suites are read once and compared: looked up one by
-- one, each might walk over what this statement, or another test job's, has put into the index and nobody can see yet. Of the run
-- these rows alone are read (the inner select is looked up for each row given, whatever else is compared by a hash).
-- Uses staged_tests_pkey, core_suitemetadata_kind_suite_name_uniq.
with staged as materialized (
  select distinct s.suite, s.name from {rows run bigint, after bigint, upto bigint}
  cross join lateral (select suite, name from staged_tests where run = i.run and seq > i.after and seq <= i.upto offset 0) s
), known as materialized (
  select m.suite, m.name from (select distinct suite from staged) s
  cross join lateral (select suite, name from public.core_suitemetadata where kind = 'test' and suite = s.suite offset 0) m
)
insert into public.core_suitemetadata (kind, suite, name)
select 'test', n.suite, n.name from staged n
where not exists (select 1 from known k where k.suite = n.suite and k.name = n.name)
order by n.suite, n.name
on conflict (kind, suite, name) do nothing
