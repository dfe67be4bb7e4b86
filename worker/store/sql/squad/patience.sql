-- Publishing a million tests takes longer than other commands, and is done by joins that others must not need. Of many tests each
-- step joins whole tables: where statistics are young or none, the index that is taken for each single test may be that of
-- its suite, which all of them have in common. Where SQUAD has far more names than that, each is looked up instead. For few tests
-- the plan is made once: the values are one array, of which it knows nothing, and planning again took longer than the work.
-- Uses runs_testjob_generation_part_key, staged_tests_pkey, pg_class_oid_index.
with staged as (
  select coalesce(max(s.seq), 0) as tests from {rows testjob bigint, generation bigint} join runs r on r.testjob = i.testjob and r.generation = i.generation
    cross join lateral (select seq from staged_tests where run = r.id order by seq desc limit 1) s
), many as (
  select tests > 5000 and tests > 0.05 * c.reltuples as tests from staged, pg_catalog.pg_class c where c.oid = cast('public.core_suitemetadata' as regclass)
)
select set_config('statement_timeout', '10min', true), set_config('idle_in_transaction_session_timeout', '1min', true), set_config('work_mem', '64MB', true),
  set_config('enable_hashjoin', case when many.tests then 'on' else current_setting('enable_hashjoin') end, true),
  set_config('enable_mergejoin', case when many.tests then 'on' else current_setting('enable_mergejoin') end, true),
  set_config('enable_seqscan', case when many.tests then 'on' else current_setting('enable_seqscan') end, true),
  set_config('enable_nestloop', case when many.tests then 'off' else 'on' end, true),
  set_config('plan_cache_mode', case when many.tests then 'force_custom_plan' else 'force_generic_plan' end, true) as done
from many
