-- When the next waiting task is due. Uses tasks_due.
select min(run_at) as run_at from tasks where state = 'waiting' and {any}
