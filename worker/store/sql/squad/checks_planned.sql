-- Foreign keys are looked at when the transaction ends, each by a statement that is planned once: the settings of patience.sql would have it
-- planned again for each of a million tests, which took twice as long as everything else.
select set_config('plan_cache_mode', 'force_generic_plan', true) as done from {rows testjob bigint, generation bigint}
