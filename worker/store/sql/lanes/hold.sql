-- Nobody runs these tasks again while this command looks at how they ended. Uses tasks_pkey.
select e.id from tasks e where e.id in (select i.id from {rows id text})
order by e.id
--pg for share
