-- Publishing a million tests takes longer than other commands, and is done by joins that others must not need.
select set_config('statement_timeout', '10min', true), set_config('idle_in_transaction_session_timeout', '1min', true),
  set_config('enable_hashjoin', 'on', true), set_config('enable_mergejoin', 'on', true), set_config('work_mem', '64MB', true) as done
where {any}
