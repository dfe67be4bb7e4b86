-- How many tests the largest of the last test runs has, and whether somebody has hung a trigger on tests. Uses core_status_pkey.
select coalesce(max(s.tests), 0) as tests,
  exists (select 1 from pg_catalog.pg_trigger t where t.tgrelid = cast('public.core_test' as regclass) and not t.tgisinternal) as watched
from {rows last bigint} cross join lateral (
  select c.tests_pass + c.tests_fail + c.tests_xfail + c.tests_skip as tests from public.core_status c where c.suite_id is null
  order by c.id desc limit i.last
) s
