-- From here on PostgreSQL does not look again whether the rows are there that a test refers to: tests.sql has found and locked each. Only
-- for many tests (a few cost nothing), and only if nobody has hung triggers of their own on them. Needs the right to set
-- session_replication_role. Uses runs_testjob_generation_part_key, staged_tests_pkey.
select set_config('session_replication_role', 'replica', true) as done from {rows testjob bigint, generation bigint}
where exists (select 1 from runs r join staged_tests s on s.run = r.id and s.seq > 5000 where r.testjob = i.testjob and r.generation = i.generation)
  and not exists (select 1 from pg_catalog.pg_trigger t where t.tgrelid = cast('public.core_test' as regclass) and not t.tgisinternal)
