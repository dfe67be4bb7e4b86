-- Publishing a million tests takes longer than other commands, and is done by joins that others must not need. Of many tests each
-- step joins whole tables: where statistics are young or none, the index that is taken for each single test may be that of
-- its suite, which all of them have in common. Uses runs_testjob_generation_part_key, staged_tests_pkey.
with many as (
  select exists (select 1 from {rows testjob bigint, generation bigint} join runs r on r.testjob = i.testjob and r.generation = i.generation
    join staged_tests s on s.run = r.id and s.seq > 5000) as tests
)
select set_config('statement_timeout', '10min', true), set_config('idle_in_transaction_session_timeout', '1min', true),
  set_config('enable_hashjoin', 'on', true), set_config('enable_mergejoin', 'on', true), set_config('work_mem', '64MB', true),
  set_config('enable_seqscan', case when many.tests then 'on' else current_setting('enable_seqscan') end, true),
  set_config('enable_nestloop', case when many.tests then 'off' else 'on' end, true),
  set_config('plan_cache_mode', case when many.tests then 'force_custom_plan' else 'auto' end, true) as done
from many
