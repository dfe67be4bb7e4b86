-- Fails unless this role may have foreign keys not looked at; for this statement only.
select set_config('session_replication_role', 'replica', true) as done from {rows nothing bigint}
