-- For names_ahead: names are compared by a hash, whatever PostgreSQL believes of how many there are.
select set_config('enable_hashjoin', 'on', true), set_config('enable_nestloop', 'off', true), set_config('work_mem', '64MB', true) as done from {rows run bigint}
