-- The same names for a few rows of a run, before it is published: a name without a test shows nowhere, and a million
-- of them need not wait in the transaction that shows the tests. Uses staged_tests_pkey.
insert into public.core_suitemetadata (kind, suite, name)
select distinct 'test', s.suite, s.name from {rows run bigint, after bigint, upto bigint}
join staged_tests s on s.run = i.run and s.seq > i.after and s.seq <= i.upto
where not exists (select 1 from public.core_suitemetadata m where m.kind = 'test' and m.suite = s.suite and m.name = s.name)
order by s.suite, s.name
on conflict do nothing
