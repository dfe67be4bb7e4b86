-- One row if all of these tasks are there. Uses tasks_pkey.
select 1 as known where not exists (select 1 from {rows id text} left join tasks t on t.id = i.id where t.id is null)
