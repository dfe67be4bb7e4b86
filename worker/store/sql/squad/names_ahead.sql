-- The same names for a few rows of a run, before it is published: a name without a test shows nowhere, and a million
-- of them need not wait in the transaction that shows the tests. What is known is looked for as the first at or behind it in
-- the order of the one index that has all three, so that no statistics, however old, can have it looked for in an index of its suite
-- or its kind, which all of them have in common. Uses staged_tests_pkey, core_suitemetadata_kind_suite_name_uniq.
insert into public.core_suitemetadata (kind, suite, name)
select 'test', n.suite, n.name
from (select distinct s.suite, s.name from {rows run bigint, after bigint, upto bigint}
  join staged_tests s on s.run = i.run and s.seq > i.after and s.seq <= i.upto) n
where (n.suite, n.name) is distinct from (
  select (cast(m.suite as text), cast(m.name as text)) from public.core_suitemetadata m where (m.kind, m.suite, m.name) >= ('test', n.suite, n.name) order by m.kind, m.suite, m.name limit 1)
order by n.suite, n.name
on conflict do nothing
