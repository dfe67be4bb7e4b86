-- The tasks that wait for these: of two that end at the same time, the second sees the first. Uses task_after_after, tasks_pkey.
select b.id from tasks b where b.state = 'blocked' and b.id in (select a.task_id from {rows id text, lane text} join task_after a on a.after_id = i.id)
order by b.id
--pg for update
