-- From here on it does again.
select set_config('session_replication_role', 'origin', true) as done from {rows testjob bigint}
