-- How many lanes a failed task halts. Uses tasks_set_aside.
select count(distinct t.lane) as number from tasks t where t.state in ('dead', 'parked') and t.state = 'dead' and t.place is not null and {any}
